"""From folders to runs: lm-eval's results and samples, and their traces.

A file that cannot be read is reported in one line, and the report is made without it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError, one_line
from dynamax_lm.common.manifest import Manifest, digest_of, manifest_beside
from dynamax_lm.common.tracefile import TraceLine, read_trace, trace_files
from dynamax_lm.report.runs import Run, Sample
from dynamax_lm.report.shape import check_shape

_KEPT_FILES = 8
_RESULTS = re.compile(r"results_(?P<stamp>.+)\.json")


@dataclass
class Library:
    """The runs found, and the files that could not be read.

    Attributes:
        runs: newest last, each once.
        problems: one line for each omitted file, naming it.
    """

    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Comparisons read the same few files repeatedly; all files may not fit in memory.
        self._read_samples = lru_cache(maxsize=_KEPT_FILES)(read_samples)

    def note(self, line: str) -> None:
        """Records a problem, once."""
        if line not in self.problems:
            self.problems.append(line)

    def samples(self, run: Run, task: str) -> list[Sample] | None:
        """The samples of one task, or ``None`` where none were logged or the file is damaged."""
        path = run.sample_files.get(task)
        if path is None:
            return None
        try:
            return self._read_samples(path)
        except SettingError as error:
            self.note(str(error))
            return None

    def trace(self, run: Run, task: str) -> list[TraceLine] | None:
        """The trace of one task, or ``None`` where there is none or a file is damaged.

        A later run with the same ``trace_dir`` replaces the files of an earlier one; traces whose
        depths differ from the results, or whose bytes from the run's manifest, are refused.
        """
        files = run.trace_files(task)
        lines = self.lines(files) if files else None
        if lines is not None and not (run.owns(task, lines) and self._as_written(run, files)):
            self.note(
                f"{files[0]}: it is not known to be the trace of {run.path}; it may be another "
                f"run's, or was changed; give each run a trace_dir of its own"
            )
            return None
        return lines

    def _as_written(self, run: Run, files: Sequence[Path]) -> bool:
        """Whether these are the files in the run's manifest; equal depths alone prove nothing."""
        path = manifest_beside(run.path)
        try:
            if path is None:
                raise FileNotFoundError("no manifest stands beside its results")
            known = Manifest.read(path).traces
            return all(known.get(file.name) == digest_of(file) for file in files)
        except (OSError, ValueError) as error:
            self.note(
                f"{path or run.path}: the run's manifest cannot be read ({one_line(error, 120)})"
            )
            return False

    def lines(self, files: Sequence[Path]) -> list[TraceLine] | None:
        """All lines of these trace files, or ``None`` where one is damaged."""
        try:
            return read_lines(files)
        except SettingError as error:
            self.note(str(error))
            return None


def load(paths: Sequence[Path]) -> Library:
    """All runs below ``paths``, which may be folders or results files.

    Raises:
        SettingError: a path that does not exist, or no results that can be read.
    """
    library = Library()
    for file in _results_files(paths):
        try:
            library.runs.append(_read_run(file))
        except SettingError as error:
            library.note(str(error))
    library.runs.sort(key=lambda run: run.date)
    if not library.runs:
        shown = ", ".join(map(str, paths))
        more = f"; {library.problems[0]}" if library.problems else ""
        raise SettingError(
            f"{shown}: no results_*.json that can be read; give folders that "
            f"`lm_eval --output_path` wrote{more}"
        )
    return library


def read_samples(path: Path) -> list[Sample]:
    """One samples file.

    Raises:
        SettingError: it cannot be read to its end.
    """
    samples: list[Sample] = []
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                number += 1
                if line.strip():
                    samples.append(Sample.from_json(json.loads(line)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error, f", line {number}" if number else "") from error
    return samples


def read_lines(files: Iterable[Path]) -> list[TraceLine]:
    """All lines of a task's trace files.

    Raises:
        SettingError: one cannot be read to its end.
    """
    lines: list[TraceLine] = []
    for path in files:
        try:
            lines.extend(read_trace(path))
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(path, error) from error
    return lines


def _results_files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found[path.resolve()] = None
        elif path.is_dir():
            for file in sorted(path.rglob("results_*.json")):
                if not _half_written(file.relative_to(path)):
                    found[file.resolve()] = None
        else:
            raise SettingError(f"{path}: no such file or folder; give what --output_path named")
    return list(found)


def _half_written(file: Path) -> bool:
    """Whether it is in the temporary folder of an interrupted sweep."""
    return any(one.startswith(".") and one.endswith(".partial") for one in file.parts)


def _read_run(path: Path) -> Run:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        check_shape(data)
        return Run(
            path=path,
            data=data,
            sample_files=_sample_files(path, data["results"]),
            trace_folder=_trace_folder(path, data),
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _damaged(path, error, then="the run is left out") from error


def _sample_files(path: Path, results: Mapping[str, Any]) -> dict[str, Path]:
    """Samples are in the folder of their results, with the same time stamp."""
    match = _RESULTS.fullmatch(path.name)
    if match is None:
        return {}
    named = {task: path.with_name(f"samples_{task}_{match['stamp']}.jsonl") for task in results}
    return {task: file for task, file in named.items() if file.is_file()}


def _trace_folder(path: Path, data: Mapping[str, Any]) -> Path | None:
    """The run's trace folder: as written, or moved together with the results."""
    block = data.get("config", {}).get("early_exit") or {}
    written = block.get("settings", {}).get("trace_dir")
    if not written:
        return None
    given = Path(os.path.expanduser(str(written)))
    ends = [Path(*given.parts[-number:]) for number in (1, 2)]
    beside = [folder / end for folder in list(path.parents)[:4] for end in ends]
    return next((folder for folder in (given, *beside) if trace_files(folder)), None)


def _damaged(
    path: Path, error: Exception, at: str = "", then: str = "its run is shown without it"
) -> SettingError:
    return SettingError(f"{path}{at}: cannot be read ({one_line(error, 120)}); {then}")
