"""Changes every value of a results folder, one at a time, and sees what `report --verify` says.

    python -m benchmarks.validity.mutations [--every 1] [--trace_every 20] [--report_every 50]

makes a small run of the embedded Mistral with its heads (generation, multiple choice and a group;
traces and samples), and changes each value of results, samples, traces and manifest: to another of
its kind, to null, and to another kind; and leaves it out. Each change is tried as it is, where the
manifest's digests show it, and with the digests made again, where only the relations between the
files can. A change of kind that nothing shows must be of a field on the list of what only a re-run
could show. Nothing may end in a traceback, the report itself included.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

TASKS = ("dynamax_triviaqa_sample", "dynamax_truthfulqa_mc1_sample")
GROUP = "dynamax_pair"

_FIGURES = "dynamax_lm.report.write.figures_of"

Steps = tuple[str | int, ...]
How = Literal["changed", "null", "kind", "dropped"]
HOWS: tuple[How, ...] = ("changed", "null", "kind", "dropped")


def make_run(folder: Path, *, limit: int = 2, tasks: Sequence[str] = TASKS) -> Path:
    """Results, samples, traces and manifest, as ``lm_eval --log_samples`` writes them.

    Returns:
        The results file.
    """
    from lm_eval import models as _  # noqa: F401 - left out where some model is registered
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from dynamax_lm.harness.manifests import save_run
    from dynamax_lm.harness.plugin.bridge import TASKS as OWN
    from dynamax_lm.harness.plugin.hook import force

    force()
    group = {
        "group": GROUP,
        "task": list(tasks),
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    tracker = EvaluationTracker(output_path=str(folder))
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "pair.yaml").write_text(json.dumps(group))  # JSON is YAML
        known = TaskManager(include_path=[str(OWN), name], include_defaults=False)
        results = simple_evaluate(
            model="dynamax-mistral",
            model_args={"pretrained": "tiny", "trace_dir": str(folder / "traces")},
            tasks=[GROUP],
            task_manager=known,
            limit=limit,
            batch_size=8,
            log_samples=True,
            bootstrap_iters=10,
            evaluation_tracker=tracker,
        )
    assert results is not None
    samples = results.pop("samples")
    save_run(tracker, results, samples)
    (found,) = folder.rglob("results_*.json")
    return found


class Mutation(NamedTuple):
    """One value of one file.

    Attributes:
        file: the file.
        line: which line of a JSONL file, from 0; ``None`` for a JSON file.
        steps: the way to the value.
        how: what is done to it.
    """

    file: Path
    line: int | None
    steps: Steps
    how: How

    @property
    def kind(self) -> str:
        """``results``, ``samples``, ``trace`` or ``manifest``."""
        return self.file.name.partition("_")[0]

    @property
    def field(self) -> str:
        """The value's path, joined by dots."""
        return ".".join(map(str, self.steps))


def mutations(folder: Path, hows: Sequence[How] = HOWS) -> Iterator[Mutation]:
    """Every change of every value of every file below ``folder``."""
    for file in sorted(folder.rglob("*.json*")):
        for line, data in enumerate(_read(file)):
            for steps in _leaves(data):
                for how in hows:
                    yield Mutation(file, line if file.suffix == ".jsonl" else None, steps, how)


def apply(mutation: Mutation) -> bool:
    """Changes the file.

    Returns:
        Whether there was something to change.
    """
    lines = _read(mutation.file)
    number = mutation.line or 0
    before = copy.deepcopy(lines[number])
    lines[number] = _changed(lines[number], mutation.steps, mutation.how)
    _write(mutation.file, lines)
    return bool(lines[number] != before)


def remake_manifest(results: Path) -> None:
    """The manifest with the digests of the files as they are now, as a forger would leave it."""
    from dynamax_lm.common.manifest import Manifest, digest_of, manifest_beside

    path = manifest_beside(results)
    assert path is not None
    old = Manifest.read(path)
    traces = results.parent.parent / "traces"
    Manifest(
        old.version,
        old.fingerprint,
        {name: digest_of(results.with_name(name)) for name in old.files},
        {name: digest_of(traces / name) for name in old.traces},
    ).write(path)


@dataclass
class Tally:
    """What became of the changes.

    Attributes:
        tried: by kind of file and of change.
        by_manifest: changes that the digests show.
        by_relations: changes that the relations show, the digests made again.
        listed: changes that neither shows once the digests are made again, of listed fields.
        missed: the others.
        crashed: those that ended in a traceback.
    """

    tried: Counter[tuple[str, How]] = field(default_factory=Counter)
    by_manifest: Counter[tuple[str, How]] = field(default_factory=Counter)
    by_relations: Counter[tuple[str, How]] = field(default_factory=Counter)
    listed: Counter[tuple[str, How]] = field(default_factory=Counter)
    missed: list[Mutation] = field(default_factory=list)
    crashed: list[tuple[Mutation, str]] = field(default_factory=list)

    def table(self) -> str:
        """The counts, in Markdown."""
        rows = [
            "| file | change | tried | by manifest | by relations | listed | missed |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        missed = Counter((one.kind, one.how) for one in self.missed)
        for key in sorted(self.tried):
            counts = [c[key] for c in (self.tried, self.by_manifest, self.by_relations)]
            counts += [self.listed[key], missed[key]]
            rows.append(f"| {key[0]} | {key[1]} | " + " | ".join(map(str, counts)) + " |")
        totals = [sum(c.values()) for c in (self.tried, self.by_manifest, self.by_relations)]
        totals += [sum(self.listed.values()), len(self.missed)]
        rows.append("| all | | " + " | ".join(map(str, totals)) + " |")
        return "\n".join(rows)


def shows(folder: Path) -> list[str]:
    """What verification says of a folder; one line where nothing can be read."""
    from dynamax_lm.common.errors import SettingError
    from dynamax_lm.report.load import load
    from dynamax_lm.report.verify import verify

    try:
        library = load([folder])
    except SettingError as error:
        return [str(error)]
    found = verify(library)
    return found.mismatches or ([] if found.checked else ["nothing of ours"])


def try_one(mutation: Mutation, results: Path, folder: Path, tally: Tally) -> None:
    """One change, with and without its digest; the files are afterwards what they were."""
    from dynamax_lm.report.checks.rerun import listed

    text = mutation.file.read_bytes()
    manifest = next(results.parent.glob("manifest_*.json"))
    kept = manifest.read_bytes()
    key = mutation.kind, mutation.how
    try:
        if not apply(mutation):
            return
        tally.tried[key] += 1
        if mutation.kind != "manifest":
            tally.by_manifest[key] += _digests_show(results)
            remake_manifest(results)
        if shows(folder):
            tally.by_relations[key] += 1
        elif listed(mutation.kind, mutation.field):
            tally.listed[key] += 1
        else:
            tally.missed.append(mutation)
    except Exception as error:  # the point of the experiment
        tally.crashed.append((mutation, repr(error)))
    finally:
        mutation.file.write_bytes(text)
        manifest.write_bytes(kept)


def _digests_show(results: Path) -> bool:
    from dynamax_lm.common.manifest import Manifest, digest_of, manifest_beside

    path = manifest_beside(results)
    assert path is not None
    manifest, traces = Manifest.read(path), results.parent.parent / "traces"
    changed = [digest_of(results.with_name(n)) != d for n, d in manifest.files.items()]
    changed += [digest_of(traces / name) != d for name, d in manifest.traces.items()]
    return any(changed)


def report_survives(
    mutation: Mutation, folder: Path, output: Path, *, pictures: bool = True
) -> str | None:
    """Whether the report of a changed folder is written, or refused in one line.

    Args:
        mutation: what is changed for the time of the report.
        folder: the run's.
        output: the report's.
        pictures: whether pictures are drawn; they take most of the time.

    Returns:
        The traceback's last line, or ``None``.
    """
    from dynamax_lm.common.errors import SettingError
    from dynamax_lm.report.load import load
    from dynamax_lm.report.write import write_report

    text = mutation.file.read_bytes()
    try:
        apply(mutation)
        with nullcontext() if pictures else mock.patch(_FIGURES, return_value=[]):
            write_report(load([folder]), output)
    except SettingError:
        return None
    except Exception as error:  # the point of the experiment
        return repr(error)
    finally:
        mutation.file.write_bytes(text)
    return None


Forgery = Callable[[Path, dict[str, Any], dict[str, list[Any]], dict[str, list[Any]]], None]


def forgeries() -> dict[str, Forgery]:
    """Changes of many values at once: of results, samples by file name, and traces by file name."""

    def each(files: dict[str, list[Any]], change: Callable[[Any], None]) -> None:
        for lines in files.values():
            for line in lines:
                change(line)

    def right(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(samples, lambda s: s.update(acc=1.0) if "acc" in s else None)
        for name, numbers in results["results"].items():
            if name != GROUP and "acc,none" in numbers:
                numbers |= {"acc,none": 1.0, "acc_stderr,none": 0.0}

    def never(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        results["config"]["early_exit"]["settings"]["threshold"] = 1.0

    def unsure(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(traces, lambda row: row.update(confidence=0.5))

    def tokens(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(traces, lambda r: r.update({n: r[n] ^ 1 for n in ("token", "emitted", "full_depth")}))

    def responses(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        def change(sample: Any) -> None:
            if isinstance(sample["resps"][0][0], str):
                sample |= {"resps": [["Paris"]], "filtered_resps": ["Paris"]}

        each(samples, change)

    def targets(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(samples, lambda s: s.update(target="['Paris']"))

    def likelihoods(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        def change(sample: Any) -> None:
            for index, (pair,) in enumerate(sample["resps"]):
                if isinstance(pair, list):
                    pair[0] = sample["filtered_resps"][index][0] = str(-1.0 - index)

        each(samples, change)

    def certificate(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        found = results["config"]["early_exit"]["certificate"]
        found["risk"] = 0.001
        for label in found["applies"].values():
            label |= {"certified": True, "reason": None}

    def renamed(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        results["config"]["early_exit"]["settings"]["pretrained"] = "mistralai/Mistral-7B-v0.3"

    def agreeing(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(traces, lambda row: row.update(full_depth=row["emitted"]))
        each(samples, lambda s: s.update(agreement=1.0) if "agreement" in s else None)
        block = results["config"]["early_exit"]
        for totals in (block, *block["tasks"].values()):
            totals |= {"agreement": 1.0, "agreeing_tokens": totals["compared_tokens"]}
        for table in (results["results"], results["groups"]):
            for numbers in table.values():
                numbers |= {"agreement,none": 1.0, "agreement_stderr,none": 0.0}

    return {
        "every acc set to 1, with its mean": right,
        "threshold set to 1": never,
        "every confidence set to 0.5": unsure,
        "every token id replaced": tokens,
        "every response replaced": responses,
        "every target replaced": targets,
        "every log-likelihood replaced": likelihoods,
        "certificate's risk and `applies` rewritten": certificate,
        "pretrained renamed": renamed,
        "full_depth := emitted, with all totals": agreeing,
    }


def forge(forgery: Forgery, results: Path, target: Path) -> list[str]:
    """What verification says of a copy with a forgery and its digests made again."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(results.parent.parent, target)
    copied = target / results.parent.name / results.name
    data = json.loads(copied.read_text(encoding="utf-8"))
    samples = {str(p): _read(p) for p in copied.parent.glob("samples_*.jsonl")}
    traces = {str(p): _read(p) for p in (target / "traces").glob("*.jsonl")}
    forgery(target, data, samples, traces)
    copied.write_text(json.dumps(data), encoding="utf-8")
    for path, lines in (samples | traces).items():
        _write(Path(path), lines)
    # The settings name the folder where the traces lay; the copies beside the results are meant.
    away = results.parent.parent / "traces"
    hidden = away.with_name("away")
    away.rename(hidden)
    try:
        remake_manifest(copied)
        return shows(target)
    finally:
        hidden.rename(away)


def _leaves(data: Any, steps: Steps = ()) -> Iterator[Steps]:
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from _leaves(value, (*steps, name))
    elif isinstance(data, list) and data:
        for number, value in enumerate(data):
            yield from _leaves(value, (*steps, number))
    else:
        yield steps


def _changed(data: Any, steps: Steps, how: How) -> Any:
    changed = copy.deepcopy(data)
    inner = changed
    for step in steps[:-1]:
        inner = inner[step]
    if how == "dropped":
        del inner[steps[-1]]
    elif how == "null":
        inner[steps[-1]] = None
    elif how == "kind":
        inner[steps[-1]] = {"other": "kind"}
    else:
        inner[steps[-1]] = _another(inner[steps[-1]])
    return changed


def _another(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.01 + 1e-3
    if isinstance(value, str):
        try:
            return repr(float(value) * 1.01 - 1e-3)  # lm-eval logs some numbers as text
        except ValueError:
            return {"True": "False", "False": "True"}.get(value, f"{value}x")
    return [0] if isinstance(value, list) else {"other": 0} if isinstance(value, dict) else "x"


def _read(file: Path) -> list[Any]:
    text = file.read_text(encoding="utf-8")
    return (
        [json.loads(line) for line in text.splitlines()]
        if file.suffix == ".jsonl"
        else [json.loads(text)]
    )


def _write(file: Path, lines: Sequence[Any]) -> None:
    if file.suffix == ".jsonl":
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    else:
        text = json.dumps(lines[0], ensure_ascii=False)
    file.write_text(text, encoding="utf-8")


def main() -> int:
    """Makes the run, changes everything, and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--every", type=int, default=1, help="try one in so many changes")
    parser.add_argument("--trace_every", type=int, default=20, help="of traces: one in so many")
    parser.add_argument("--report_every", type=int, default=50, help="reports: one in so many")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        results = make_run(folder)
        clean = shows(folder)
        if clean:
            sys.stdout.write("\n".join(["the run as it is does not verify:", *clean, ""]))
            return 1
        everything = list(mutations(folder))
        random.Random(given.seed).shuffle(everything)
        tally = Tally()
        traces = [one for one in everything if one.kind == "trace"][:: given.trace_every]
        others = [one for one in everything if one.kind != "trace"][:: given.every]
        for mutation in [*others, *traces]:
            try_one(mutation, results, folder, tally)
        sys.stdout.write(tally.table() + "\n\n")
        crashes = []
        reports = [one for one in everything if one.how != "changed"][:: given.report_every]
        for number, mutation in enumerate(reports):
            output, drawn = Path(name) / "report", number % 10 == 0
            wrong = report_survives(mutation, folder, output, pictures=drawn)
            if wrong is not None:
                crashes.append((mutation, wrong))
        sys.stdout.write(f"{len(reports)} reports of changed folders, {len(crashes)} tracebacks\n")
        for label, forgery in forgeries().items():
            found = forge(forgery, results, Path(name) / "forged")
            sys.stdout.write(f"{label}: {len(found)} mismatches\n")
        for one in tally.missed:
            sys.stdout.write(f"missed: {one.file.name} {one.line} {one.field} ({one.how})\n")
        for one, why in [*tally.crashed, *crashes]:
            sys.stdout.write(f"traceback: {one.file.name} {one.field} ({one.how}): {why}\n")
        return 1 if tally.missed or tally.crashed or crashes else 0


if __name__ == "__main__":
    sys.exit(main())
