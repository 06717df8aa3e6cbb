"""What is done in one place of the package is done nowhere else.

Each table names the places that a rule has, with the reason; a further one fails, and so does one
that is gone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dynamax_lm"

WRITERS = {
    "common/outputs.py": "the writer of whole files",
    "common/plots.py": "encodes a figure in memory",
    "common/tracefile.py": "streams into the writer's temporary file",
    "heads/train/hidden_state_cache.py": "saves tensors into the writer's temporary file",
    "heads/train/trainer.py": "saves a state into the writer's temporary file; appends to its log",
    "heads/train/self_generated.py": "appends answers, and drops a cut line when it resumes",
    "bench/documents.py": "a task in a temporary folder",
    "bench/runs.py": "a checkpoint in a temporary folder",
}
"""Files that call what writes a file."""

FIGURES = {"common/plots.py": "makes every figure, with one palette and one style"}
"""Files that make a figure of matplotlib; others draw on one."""

LAYER_LOOPS = {
    "core/loop.py": "one pass with exits",
    "engine/exit_probe.py": "every exit of every token",
    "engine/prefill.py": "prompts, at whose exits no measure is evaluated",
    "engine/segment.py": "a segment of generation, between two exits",
    "decoders/check.py": "compares the lowest layers with transformers'",
    "decoders/recorded_steps.py": "the body that is recorded",
    "bench/exits.py": "seconds of a layer",
    "bench/decode.py": "seconds of all layers",
}
"""Files that run a decoder layer by layer."""

PROBED = (
    "dynamax_lm/headroom/probe.py",
    "dynamax_lm/heads/train/backbone.py",
    "dynamax_lm/reuse/threshold_replay.py",
    "benchmarks/criteria/collect.py",
)
"""Headroom, head training and evaluation, threshold replay, and the benchmark of criteria."""

WRITES = {
    "sweep/run.py": {"runner.origins"},
    "sweep/__main__.py": {"options.log_samples"},
    "sweep/folder.py": {"tracker.output_path"},
    "report/write.py": {"library.runs"},
    "report/checks/depths.py": {"found.checked"},
    "bench/__main__.py": {"given.rounds"},
    "play/session.py": {"timer.answer"},
}
"""Attributes of other objects that the tools write: options, their own runner, library and
findings, lm-eval's tracker, and the seconds that a runner is given to count."""

TOOLS = ("sweep", "certify", "headroom", "report", "bench", "play")

BENCHMARK_WRITES = {
    "cheap_look.py": {
        "other.__dict__.update(logits=view.logits, normed=view.normed)": "a copy of its own view",
    },
    "faults/commands.py": {
        "lm_eval.tasks.TaskManager": "lm-eval's, in a process of its own: it reads all its tasks",
        "sys.argv": "lm-eval's parser takes no other arguments",
    },
    "faults/hostile.py": {
        "tally.loaded": "its own count",
        "tally.refused": "its own count",
    },
    "faults/kills.py": {
        "series.damaged": "its own count",
        "series.differing": "its own count",
        "series.ended": "its own count",
        "series.killed": "its own count",
    },
    "faults/subjects.py": {
        "patch.object(Trainer, '_one_step', ask_to_stop)": "the fault: a signal during a step",
        "patch.object(Trainer, '_one_step', side_effect=_TakenUpError)": "ends a resumed training",
    },
    "spread_profile.py": {
        "mock.patch.object(Decoding, '_run', counted)": "counts steps, which nothing reports",
        "mock.patch.object(stack, 'unembed', counted)": "counts rows, which nothing reports",
    },
    "validity/mutations.py": {
        "mock.patch(_FIGURES, return_value=[])": "leaves out pictures, which are slow",
    },
}
"""What benchmarks write on other objects, and why."""


def calls(path: Path) -> Iterator[ast.Call]:
    return (one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call))


def places(matches: Callable[[ast.Call], bool]) -> set[str]:
    """The files of the package with a call that matches."""
    return {
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if any(map(matches, calls(path)))
    }


def writes_a_file(call: ast.Call) -> bool:
    called = ast.unparse(call.func)
    if called.endswith((".write_text", ".write_bytes", ".savefig", ".tofile")):
        return True
    if called in {"save_file", "torch.save", "json.dump", "np.save", "np.savez", "pickle.dump"}:
        return True
    if called != "open" and not called.endswith(".open"):
        return False
    given = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [one.value for one in given if isinstance(one, ast.Constant)]
    return any(isinstance(mode, str) and set("wax+") & set(mode) for mode in modes)


def makes_a_figure(call: ast.Call) -> bool:
    called = ast.unparse(call.func)
    return called == "Figure" or called.startswith("plt.") or called.endswith("pyplot.figure")


def runs_a_layer(call: ast.Call) -> bool:
    return ast.unparse(call.func).endswith(".layer") and len(call.args) == 3


@pytest.mark.parametrize(
    ("matches", "known"),
    [(writes_a_file, WRITERS), (makes_a_figure, FIGURES), (runs_a_layer, LAYER_LOOPS)],
)
def test_it_is_done_in_these_places_alone(
    matches: Callable[[ast.Call], bool], known: dict[str, str]
) -> None:
    assert places(matches) == set(known)


@pytest.mark.parametrize("path", PROBED)
def test_what_every_exit_says_of_every_token_has_one_answer(path: str) -> None:
    """Each of these asks the probe; by the table above none of them could run the layers itself."""
    called = {ast.unparse(call.func) for call in calls(ROOT / path)}
    assert "probe_exits" in called
    assert not any(map(runs_a_layer, calls(ROOT / path)))


def written_attributes(path: Path) -> Iterator[str]:
    """Attributes that a file assigns, deletes, or replaces for a while by mocks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            writes = sets_attributes(node)
        else:
            stored = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
            of_a_dictionary = isinstance(node, ast.Subscript) and holds_attributes(node.value)
            writes = stored and (isinstance(node, ast.Attribute) or of_a_dictionary)
        if writes:
            yield ast.unparse(node)


def sets_attributes(call: ast.Call) -> bool:
    *where, last = ast.unparse(call.func).split(".")
    if last in {"setattr", "delattr", "__setattr__", "__delattr__"}:
        return ast.unparse(call.args[0]) != "self"
    if isinstance(call.func, ast.Attribute) and last == "update":
        return holds_attributes(call.func.value)
    return last == "patch" or where[-1:] == ["patch"]


def holds_attributes(one: ast.expr) -> bool:
    """``x.__dict__`` or ``vars(x)``."""
    return ast.unparse(one).endswith(".__dict__") or ast.unparse(one).startswith("vars(")


def test_no_tool_writes_attributes_of_the_model_or_the_core() -> None:
    found = {}
    for tool in TOOLS:
        found |= written_elsewhere(PACKAGE, tool)
    assert found == WRITES


def test_no_benchmark_writes_attributes_of_the_model_or_the_core_but_to_count() -> None:
    found = written_elsewhere(ROOT / "benchmarks")
    assert found == {path: set(reasons) for path, reasons in BENCHMARK_WRITES.items()}
    assert all(all(reasons.values()) for reasons in BENCHMARK_WRITES.values())


def written_elsewhere(root: Path, folder: str = "") -> dict[str, set[str]]:
    """By file of the folder, relative to the root: what it writes on objects of others."""
    found = {}
    for path in sorted((root / folder).rglob("*.py")):
        if others := {one for one in written_attributes(path) if not is_own(one)}:
            found[str(path.relative_to(root))] = others
    return found


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("lm.memory = 1", "lm.memory"),
        ("self.lm.memory = 1", "self.lm.memory"),
        ("del lm.memory", "lm.memory"),
        ("lm.memory += 1", "lm.memory"),
        ("setattr(lm, 'memory', 1)", "setattr(lm, 'memory', 1)"),
        ("object.__setattr__(lm, 'memory', 1)", "object.__setattr__(lm, 'memory', 1)"),
        ("vars(lm).update(memory=1)", "vars(lm).update(memory=1)"),
        ("lm.__dict__['memory'] = 1", "lm.__dict__['memory']"),
        ("with patch('lm.memory'): pass", "patch('lm.memory')"),
        ("with mock.patch.object(lm, 'memory'): pass", "mock.patch.object(lm, 'memory')"),
        ("self.memory = lm.memory", None),
        ("self.dispatch(lm.memory)", None),
        ("object.__setattr__(self, 'memory', 1)", None),
        ("here.update(vars(lm))", None),
    ],
)
def test_writing_an_attribute_is_seen(tmp_path: Path, source: str, written: str | None) -> None:
    (tmp_path / "tool.py").write_text(source)
    assert written_elsewhere(tmp_path) == ({"tool.py": {written}} if written else {})


def is_own(written: str) -> bool:
    """``self.x``, and not ``self.x.y``."""
    return written.startswith("self.") and written.count(".") == 1


def code_lines(path: Path) -> int:
    """Lines of a file without blank ones, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            prose |= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(n not in prose and bool(one.strip()) and one.strip()[0] != "#" for n, one in lines)


def test_the_core_can_be_read_in_a_sitting() -> None:
    """As docs/design.md promises: what needs more room belongs elsewhere."""
    core = PACKAGE / "core"
    assert 1000 < sum(map(code_lines, core.rglob("*.py"))) < 2000
