"""Imports point one way: the layers of the house as a table, held against the real imports.

A row says what a part of the package may import of the rest of the package, and which libraries it
must do without. Parts that do not exist yet are passed over, so a row may come before its package;
a new module or folder without a row fails the test that every part has one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dynamax_lm"

HEAVY = frozenset({"torch", "transformers", "lm_eval", "datasets", "matplotlib"})
"""Libraries that a part with ``without=HEAVY`` never imports, not even inside a function."""


class Row(NamedTuple):
    """What one part may import.

    Attributes:
        may: other parts of the package; a part covers what lies inside it.
        without: libraries that it must not import.
    """

    may: frozenset[str]
    without: frozenset[str] = frozenset()


def row(may: str = "", without: frozenset[str] = frozenset()) -> Row:
    return Row(frozenset(may.split()), without)


LM_EVAL = frozenset({"lm_eval"})
MODELS = frozenset({"transformers", "lm_eval", "tokenizers", "safetensors", "datasets"})

TABLE: dict[str, Row] = {
    # what everything else is made of
    "common.errors": row("", HEAVY),
    "common.durations": row("", HEAVY),
    "common.identity": row("", HEAVY),
    "common.contents": row("", HEAVY),
    "common.intervals": row("", HEAVY),
    "common.clustered_share": row("common.intervals", HEAVY),
    "common.reliability": row("", HEAVY),
    "common.risk_tests": row("", HEAVY),
    "common.manifest": row("common.outputs common.validation", HEAVY),
    "common.markdown": row("", HEAVY),
    "common.options": row("common.errors", HEAVY),
    "common.plots": row("common.errors common.outputs", HEAVY - {"matplotlib"}),
    "common.processor": row("", HEAVY),
    "common.outputs": row("common.errors", HEAVY),
    "common.extensions": row("common.errors", HEAVY),
    "common.validation": row("common.errors", HEAVY),
    "common.passages": row("common.intervals", HEAVY),
    "common.certificate": row("common.errors common.risk_tests common.validation", HEAVY),
    "common.token_pieces": row("", HEAVY),
    # the file of a record of the core, which imports nothing of the package
    "common.tracefile": row("common.errors common.outputs common.validation core.trace", HEAVY),
    # early exit: torch only, and nothing else of ours
    "core.trace": row("", HEAVY),
    "core.looks": row("", HEAVY),
    "core.measures": row("core.looks", HEAVY),
    "core.thresholds": row("core.measures", HEAVY),
    "core.catchup": row("", HEAVY),
    "core.full_depth": row("core.trace", HEAVY),
    "core.skipped_states": row("", HEAVY),
    "core.costs": row("core.catchup core.skipped_states", HEAVY),
    "core.ledger": row(
        "core.catchup core.costs core.measures core.skipped_states core.trace", HEAVY
    ),
    "core.fixed_depth": row("core.costs", HEAVY),
    "core.texts": row("", HEAVY),
    "core.drafts": row("core.trace", HEAVY),
    "core.totals": row("core.drafts core.texts core.trace", HEAVY),
    "core.summary": row("core.drafts core.texts core.totals core.trace", HEAVY),
    "core": row("", MODELS | {"numpy", "scipy"}),
    # how requests run: torch only, over the core
    "engine": row("core", MODELS | {"numpy", "scipy"}),
    # the same requests under several settings
    "reuse": row("common.identity core engine", MODELS | {"numpy", "scipy"}),
    # adapters know the protocol of a decoder, and no exits
    "decoders.cpu": row("decoders.hooks", MODELS),
    "decoders.cpu.product_rule": row("", HEAVY),
    "decoders.cpu.norms": row("decoders.hooks", LM_EVAL),
    "decoders.costs": row("core.costs core.skipped_states", HEAVY),
    "decoders.checkpoint": row(
        "common.errors decoders.description decoders.families", frozenset({"torch", "lm_eval"})
    ),
    "decoders.checkpoint_identity": row("common.errors common.identity", LM_EVAL),
    "decoders.altered": row("common.errors", MODELS),
    "decoders.described_size": row("common.errors decoders.description", LM_EVAL),
    "decoders.loading": row(
        "common.errors decoders.described_size decoders.description",
        frozenset({"torch", "lm_eval"}),
    ),
    "decoders.tokenizer_file": row("common.errors", HEAVY),
    "decoders.description": row("", HEAVY),
    "decoders.families": row("decoders.description", HEAVY),
    "decoders.family_costs": row("core.costs decoders.costs decoders.description", HEAVY),
    "decoders.pretrained": row("common.errors decoders", LM_EVAL),
    "decoders.outside_stack": row("common.errors core decoders", LM_EVAL),
    "decoders.check": row("common.errors core.stack decoders.decoder", LM_EVAL),
    "decoders": row("core.catchup core.costs core.pending core.skipped_states core.stack", LM_EVAL),
    # this package's arguments, before weights load
    "settings": row(
        "common.errors common.extensions core.catchup core.costs core.looks core.measures "
        "core.skipped_states core.thresholds decoders.costs",
        frozenset({"torch", "lm_eval", "datasets"}),
    ),
    # heads need no lm-eval; the commands that train them load a checkpoint, and prompts of tasks
    "heads.train.__main__": row("harness.plugin heads.train.options heads.train"),
    "heads.train.command": row("common decoders.cpu.threads heads", LM_EVAL),
    "heads.train.plan": row("common.errors heads settings", LM_EVAL),
    "heads.train.options": row(
        "common.errors common.options decoders.checkpoint heads.config "
        "heads.train.documents heads.train.labels heads.train.sources",
        HEAVY,
    ),
    "heads.train.prompt_maps": row("common harness.command_line heads", HEAVY),
    "heads.train.prompt_map_fit": row("common heads", LM_EVAL),
    "heads.train.prompts": row("common harness.command_line harness.decontamination", HEAVY),
    "heads.train.backbone": row("heads decoders core engine settings", LM_EVAL),
    "heads.train.self_generated": row("common.errors common.outputs engine heads", LM_EVAL),
    "heads.train.expected": row("engine.phase_timer heads", LM_EVAL),
    "heads.train.documents": row("common.errors", HEAVY),
    "heads.train.sources": row("common.errors heads.train.documents", HEAVY - {"datasets"}),
    "heads.train.held_out": row("heads.train.documents", HEAVY),
    "heads.train.schedule": row("", HEAVY),
    "heads.train.stopping": row("", HEAVY),
    "heads.train.trainer": row("common.durations common.errors common.outputs heads", LM_EVAL),
    "heads": row(
        "common.errors common.outputs common.plots common.reliability common.validation", LM_EVAL
    ),
    # lm-eval: its command line, results and caches
    "harness.responses": row("core.trace", HEAVY),
    "harness.plugin": row("common.errors", frozenset({"torch", "transformers"})),
    "harness.command_line": row(
        "common.errors decoders.checkpoint harness.plugin harness.run_arguments",
        frozenset({"torch", "transformers"}),
    ),
    "harness.command_contents": row(
        "common core.totals decoders.checkpoint harness", frozenset({"torch", "transformers"})
    ),
    "harness.run_arguments": row(
        "common.errors common.options common.outputs harness.plugin", HEAVY
    ),
    "harness.decontamination": row("common harness.plugin", HEAVY),
    "harness": row(
        "common.certificate common.errors common.manifest common.outputs common.tracefile "
        "core.trace core.ledger "
        "core.looks core.drafts core.summary core.texts core.totals",
        frozenset({"transformers"}),
    ),
    "tasks.coqa.conversation": row("harness.plugin.squad_metrics", HEAVY),
    # what lm-eval registers
    "models.runner": row("core engine"),
    "models.expected_time": row("engine"),
    "models.draft_causes": row("engine"),
    "models.order": row("engine"),
    "models.speed_check": row("core engine models.draft_causes"),
    "models.stops": row("", LM_EVAL),
    "models.sampling": row("common.errors"),
    "models.requests": row("common.errors common.identity engine models.stops models.sampling"),
    "models.chosen": row("decoders.description heads", LM_EVAL),
    "models.trained": row(
        "common.certificate core.ledger decoders.checkpoint heads models.chosen settings", LM_EVAL
    ),
    "models.prompt_maps": row("heads models.chosen settings", LM_EVAL),
    "models.outside_layers": row(
        "common.errors common.extensions core.costs decoders.check decoders.decoder "
        "decoders.outside_stack",
        LM_EVAL,
    ),
    "models.memory": row("", LM_EVAL),
    "models.look_text": row("", HEAVY),
    "models.look_factors": row("common.errors decoders.decoder engine heads settings", LM_EVAL),
    "models.run_record": row(
        "core decoders.checkpoint_identity decoders.costs models.arguments settings"
    ),
    "models.arguments": row(
        "common.errors decoders.checkpoint decoders.cpu harness.hf_model settings", LM_EVAL
    ),
    "models.answering": row(
        "common.errors core decoders.decoder engine harness.hf_model harness.responses heads "
        "models.expected_time models.memory models.order models.requests models.runner "
        "models.speed_check "
        "settings"
    ),
    "models.hf_arguments": row("decoders settings", LM_EVAL),
    "models.resolution": row(
        "common.tracefile core.costs models.prompt_maps models.trained settings", LM_EVAL
    ),
    "models.in_force": row("core settings", MODELS),
    "models.exit_model": row("common core decoders engine harness heads models settings"),
    "models.lm": row("core.costs decoders models.exit_model", LM_EVAL),
    "__main__": row(
        "common.errors common.options harness.command_line harness.plugin harness.run_arguments"
    ),
    "answers": row("common.plots core.trace display", MODELS | HEAVY - {"matplotlib"}),
    "api": row(
        "answers common.errors common.token_pieces core decoders.checkpoint engine "
        "harness.responses models settings"
    ),
    # answers in terminals, notebooks and pages
    "generate": row("harness.command_line play.command"),
    "display.notebook": row("common.plots", HEAVY),
    "display.heatmap": row("common.plots", HEAVY - {"matplotlib"}),
    # its page of tokens is the report's
    "play": row("answers api common core engine harness models report"),
    # tools
    "certify": row("common core decoders.checkpoint harness heads reuse settings"),
    # its table has the report's columns
    "sweep": row("common core harness report.columns reuse settings"),
    "headroom": row(
        "common core engine harness heads.prompt_map_config heads.store reuse settings"
    ),
    "bench": row("common core decoders engine harness.plugin models.lm settings"),
    # with transformers, for the texts of tokens
    "report.tokentext": row("common.errors common.token_pieces report", frozenset({"torch"})),
    "report.difference": row("common.intervals common.passages", HEAVY),
    "report": row(
        "common core.costs core.drafts core.fixed_depth core.full_depth core.ledger core.looks "
        "core.measures core.skipped_states core.summary core.texts core.thresholds core.totals "
        "core.trace decoders.checkpoint decoders.costs harness heads.shipped settings",
        frozenset({"torch", "transformers"}),
    ),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its name inside the package, ``""`` for the package itself."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> set[str]:
    """Full names that a file imports anywhere, except for type checkers alone."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return found


NAMES = {name for name, _ in modules()}
GRAPH = {name: imports(path) for name, path in modules()}


def part_of(name: str) -> str | None:
    """The longest row that covers a module."""
    while name and name not in TABLE:
        name = name.rpartition(".")[0]
    return name or None


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def own_targets(name: str) -> set[str]:
    """Modules of the package that a module imports; names inside a module count as the module."""
    found = set()
    for full in GRAPH[name]:
        if not inside(full, PACKAGE):
            continue
        target = full.removeprefix(PACKAGE).removeprefix(".")
        while target and target not in NAMES:
            target = target.rpartition(".")[0]
        if target:
            found.add(target)
    return found


def libraries(name: str) -> set[str]:
    return {full.partition(".")[0] for full in GRAPH[name]}


def test_every_module_has_a_row() -> None:
    lonely = {name for name in NAMES if name and part_of(name) is None}
    only_docstrings = {"models", "tasks", "common", "display"}
    assert lonely <= only_docstrings, "say in TABLE what the new part may import"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_module_imports_what_its_row_allows(name: str) -> None:
    part = part_of(name)
    if part is None:
        assert not own_targets(name)
        return
    may, without = TABLE[part]
    for target in own_targets(name):
        allowed = inside(target, part) or any(inside(target, one) for one in may)
        assert allowed, f"{name} imports {target}, which the row of {part} does not allow"
    assert not libraries(name) & without


def reach(name: str) -> set[str]:
    """Every module of the package that a module needs, however indirectly."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        for target in own_targets(pending.pop()) - seen:
            seen.add(target)
            pending.append(target)
    return seen


@pytest.mark.parametrize(
    ("part", "library"),
    [
        ("report", "torch"),
        ("core.summary", "torch"),
        ("core.ledger", "torch"),
        ("core.trace", "torch"),
        ("common.tracefile", "torch"),
        ("settings", "torch"),
        ("core", "transformers"),
        ("core", "lm_eval"),
        ("engine", "transformers"),
        ("engine", "lm_eval"),
    ],
)
def test_what_a_part_does_without_does_not_come_by_a_detour(part: str, library: str) -> None:
    for name in (name for name in NAMES if inside(name, part)):
        doors = {target for target in reach(name) if inside(target, "harness.plugin")}
        for needed in {name, *reach(name)} - doors:
            assert library not in libraries(needed), f"{name} needs {needed}"


def test_no_module_needs_itself() -> None:
    """Cycles between modules; the package's own ``__init__`` files only re-export."""
    for name in NAMES - {""}:
        assert name not in reach(name) or name in {n for n in NAMES if n + "." in " ".join(NAMES)}


FOLDERS = sorted({name.partition(".")[0] for name in NAMES} - {""})
PUBLIC = {
    "__main__": "lm_eval.__main__.cli_evaluate",
    "api": "lm_eval.api.instance.Instance",
    "models.answering": "lm_eval.api.instance.Instance",
    "models.requests": "lm_eval.models.utils.handle_stop_sequences "
    "lm_eval.models.utils.normalize_gen_kwargs lm_eval.models.utils.postprocess_generated_text "
    "lm_eval.utils.get_rolling_token_windows lm_eval.utils.make_disjoint_window",
    "sweep.run": "lm_eval.loggers.EvaluationTracker",
    "report.checks.scores": "lm_eval",
    "report.checks.taskcode": "lm_eval.api.instance.Instance lm_eval.config.task.TaskConfig "
    "lm_eval.tasks lm_eval.utils.handle_non_serializable",
    "bench.documents": "lm_eval.api.instance.Instance lm_eval.models.huggingface.HFLM "
    "lm_eval.tasks.TaskManager lm_eval.tasks.get_task_dict",
    "bench.evaluation": "lm_eval.simple_evaluate",
    "bench.runs": "lm_eval.models.huggingface.HFLM",
}
"""What is imported of lm-eval outside ``harness``, whose docstring says what for."""


def test_lm_eval_is_reached_into_from_one_folder_alone() -> None:
    """Elsewhere only these public names are imported; a new one joins the harness's docstring."""
    found = {
        name: {full for full in GRAPH[name] if inside(full, "lm_eval")}
        for name in NAMES
        if not inside(name, "harness")
    }
    assert {name: some for name, some in found.items() if some} == {
        name: set(names.split()) for name, names in PUBLIC.items()
    }


def bases(path: Path) -> Iterator[str]:
    """The last names of what the classes of a file derive from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            yield ast.unparse(base).rpartition(".")[2]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_no_class_outside_the_harness_derives_from_one_of_lm_eval(name: str) -> None:
    imported = {full.rpartition(".")[2] for full in PUBLIC[name].split()}
    path = next(path for other, path in modules() if other == name)
    assert not imported & set(bases(path))


def test_the_models_override_no_protected_method_of_lm_eval() -> None:
    from lm_eval.models.huggingface import HFLM

    from dynamax_lm.models.lm import Dynamax, DynamaxMamba, DynamaxMistral

    theirs = {name for one in HFLM.__mro__ for name in vars(one)}
    protected = {name for name in theirs if name.startswith("_") and not name.endswith("__")}
    for model in (Dynamax, DynamaxMamba, DynamaxMistral):
        ours = [one for one in model.__mro__ if one.__module__.startswith("dynamax_lm.models")]
        assert ours, "the model's classes are the models folder's"
        assert not protected & {name for one in ours for name in vars(one)} - {"_abc_impl"}


def test_the_harness_names_every_reach_and_every_import_elsewhere() -> None:
    text = ast.get_docstring(ast.parse((ROOT / PACKAGE / "harness/__init__.py").read_text()))
    assert text is not None
    first = {name.split(".")[1] for name in NAMES if name.startswith("harness.")}
    assert first <= set(re.findall(r"\w+", text))
    for module, names in PUBLIC.items():
        assert f"``{module}``" in text
        shown = [full for full in names.split() if full != "lm_eval"]
        assert all(f"``{full.rpartition('.')[2]}``" in text or full in text for full in shown)


TOOLS = ("bench", "certify", "headroom", "sweep")


def neighbours(folder: str) -> set[str]:
    """The other folders that a folder imports; a module beside the folders counts as one."""
    members = (name for name in NAMES if inside(name, folder))
    return {one.partition(".")[0] for name in members for one in own_targets(name)} - {folder}


@pytest.mark.parametrize("name", FOLDERS)
def test_no_arrow_between_folders_runs_back(name: str) -> None:
    """Neither at once nor by way of other folders."""
    seen: set[str] = set()
    pending = [name]
    while pending:
        for other in neighbours(pending.pop()) - seen:
            seen.add(other)
            pending.append(other)
    assert name not in seen


@pytest.mark.parametrize("tool", TOOLS)
def test_nobody_imports_a_tool(tool: str) -> None:
    users = {name for name in NAMES if any(inside(target, tool) for target in own_targets(name))}
    assert {name for name in users if not inside(name, tool)} == set()


@pytest.mark.parametrize("name", ["core", "engine", "harness", "heads", "decoders"])
def test_the_doors_are_imported_by_nobody_below(name: str) -> None:
    for module in (module for module in NAMES if inside(module, name) and part_of(module) == name):
        assert not {"models.lm", "models.exit_model"} & reach(module)


def named_in_order(text: str, part: str) -> list[str]:
    """The modules of a part that a text names in code quotes, each at its first place."""
    known = {name.rpartition(".")[2] for name in NAMES if name.startswith(f"{part}.")}
    return [name for name in dict.fromkeys(re.findall(r"`+(\w+)`", text)) if name in known]


@pytest.mark.parametrize(("part", "other"), [("core", "engine"), ("engine", "core")])
def test_the_reading_order_names_every_module(part: str, other: str) -> None:
    order = ast.get_docstring(ast.parse((ROOT / PACKAGE / part / "__init__.py").read_text()))
    assert order is not None
    named = set(re.findall(r"``(\w+)``", order)) - {other}
    assert named == {name.rpartition(".")[2] for name in NAMES if name.startswith(f"{part}.")}


def test_the_guide_gives_the_reading_order_of_the_core() -> None:
    order = ast.get_docstring(ast.parse((ROOT / PACKAGE / "core/__init__.py").read_text()))
    assert order is not None
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = guide[guide.index("\n1. `trace`") : guide.index("\n`core/` decides")]
    assert named_in_order(listed, "core") == named_in_order(order, "core")


def test_the_guide_names_every_folder() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = guide[guide.index("    dynamax_lm/") : guide.index("    tests/")]
    folders = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders <= set(re.findall(r"(\w+)/", listed))
