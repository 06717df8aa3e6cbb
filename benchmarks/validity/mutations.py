"""Changes every value of a results folder, one at a time, and checks it with `report --verify`.

    python -m benchmarks.validity.mutations [--every 1] [--trace_every 20] [--report_every 50]

makes small runs of the embedded Mistral (generation, multiple choice and a group; traces and
samples), and changes each value of results, samples, traces and manifest of the first, which has
the shipped heads, and each value of the block `config.early_exit` of the others: to another of its
kind, to null, and to another kind; and leaves it out. Each change is tried as it is, where the
manifest's digests show it, and with the digests made again, where only the relations between the
files can. A change of kind that nothing shows must be of a field on the list of what only a re-run
could show. Nothing may end in a traceback, the report itself included.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

from benchmarks.validity.forgeries import forge, forgeries
from benchmarks.validity.run_folder import (
    SETTINGS,
    digests_show,
    make_run,
    read_lines,
    remake_manifest,
    shows,
    write_lines,
)

_DEEP = 6
"""Steps to a value of a list inside a certificate's tasks; fields of a block are nearer."""

_FIGURES = "dynamax_lm.report.write.figures_of"

Steps = tuple[str | int, ...]
How = Literal["changed", "null", "kind", "dropped"]
HOWS: tuple[How, ...] = ("changed", "null", "kind", "dropped")


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
        for line, data in enumerate(read_lines(file)):
            for steps in _leaves(data):
                for how in hows:
                    yield Mutation(file, line if file.suffix == ".jsonl" else None, steps, how)


def block_mutations(folder: Path, hows: Sequence[How] = HOWS) -> Iterator[Mutation]:
    """Those of `config.early_exit`; of a certificate, whose losses are many, its own fields."""
    for one in mutations(folder, hows):
        if one.steps[:2] == ("config", "early_exit") and len(one.steps) < _DEEP:
            yield one


def apply(mutation: Mutation) -> bool:
    """Changes the file.

    Returns:
        Whether there was something to change.
    """
    lines = read_lines(mutation.file)
    number = mutation.line or 0
    before = copy.deepcopy(lines[number])
    lines[number] = _changed(lines[number], mutation.steps, mutation.how)
    write_lines(mutation.file, lines)
    return bool(lines[number] != before)


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
            tally.by_manifest[key] += digests_show(results)
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


def main() -> int:
    """Makes the run, changes everything, and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--every", type=int, default=1, help="try one in so many changes")
    parser.add_argument("--trace_every", type=int, default=20, help="of traces: one in so many")
    parser.add_argument("--report_every", type=int, default=50, help="reports: one in so many")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = {kind: Path(name) / kind for kind in SETTINGS}
        files = {kind: make_run(folder, SETTINGS[kind]) for kind, folder in runs.items()}
        for folder in runs.values():
            if clean := shows(folder):
                sys.stdout.write("\n".join(["the run as it is does not verify:", *clean, ""]))
                return 1
        tally = Tally()
        for kind in list(SETTINGS)[1:]:
            for mutation in list(block_mutations(runs[kind]))[:: given.every]:
                try_one(mutation, files[kind], runs[kind], tally)
        sys.stdout.write(f"blocks of {', '.join(list(SETTINGS)[1:])}\n\n{tally.table()}\n\n")
        blocks, tally = tally, Tally()
        folder, results = runs["exits"], files["exits"]
        everything = list(mutations(folder))
        random.Random(given.seed).shuffle(everything)
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
        missed = tally.missed + blocks.missed
        crashes += tally.crashed + blocks.crashed
        for one in missed:
            sys.stdout.write(f"missed: {one.file.name} {one.line} {one.field} ({one.how})\n")
        for one, why in crashes:
            sys.stdout.write(f"traceback: {one.file.name} {one.field} ({one.how}): {why}\n")
        return 1 if missed or crashes else 0


if __name__ == "__main__":
    sys.exit(main())
