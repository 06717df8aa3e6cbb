"""The folder of one point of a sweep: written by lm-eval's tracker, whole or not at all.

A finished point is recognised by its key, so that a repeated sweep does not run it again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm.common.contents import file_digest
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import has_whole_lines, sync, write_json
from dynamax_lm.harness.manifests import save_run

NOTE = "point.json"
"""The file that marks a finished point; written last."""


@dataclass(frozen=True)
class PointFolder:
    """The folder of one point.

    Attributes:
        path: the folder, named after the setting.
        key: gives what identifies the command and everything that can change its results; it is
            computed again when the point is written, as a checkpoint may be downloaded meanwhile.
    """

    path: Path
    key: Callable[[], str]

    def finished(self) -> dict[str, Any] | None:
        """The results of an earlier run of the same command, if they are complete."""
        note = _read_json(self.path / NOTE)
        if note is None or note.get("key") != self.key():
            return None
        digests, results = note.get("files"), note.get("results")
        if not isinstance(digests, dict) or not isinstance(results, str):
            return None
        whole = results in digests and self._whole(digests)
        return _read_json(self.path / results) if whole else None

    def _whole(self, digests: Mapping[str, Any]) -> bool:
        """Whether every file is there as it was written, and in this folder."""
        if any(Path(name).name != name for name in digests):
            return False
        try:
            return all(file_digest(self.path / name) == known for name, known in digests.items())
        except (OSError, ValueError):  # a name that no file can have
            return False

    def write(
        self,
        results: dict[str, Any],
        samples: Mapping[str, Any] | None,
        tracker: Any,
        note: Mapping[str, Any],
    ) -> None:
        """Write lm-eval's files, then move them into the folder; the note is written last.

        Args:
            results: of ``simple_evaluate``, without samples.
            samples: by task, or ``None`` for none.
            tracker: the ``EvaluationTracker`` of the evaluation.
            note: further JSON values to store with the point.

        Raises:
            SettingError: lm-eval could not write them.
        """
        partial = self.path.with_name(f".{self.path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            self._write(partial, results, samples, tracker, note)
        except OSError as error:
            raise SettingError(f"--output_path: {self.path} cannot be written: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _write(
        self,
        partial: Path,
        results: dict[str, Any],
        samples: Mapping[str, Any] | None,
        tracker: Any,
        note: Mapping[str, Any],
    ) -> None:
        partial.mkdir(parents=True)
        # A path that ends in .json is lm-eval's way to name the folder itself.
        tracker.output_path = str(partial / "results.json")
        save_run(tracker, results, samples)
        written = sorted(file.name for file in partial.iterdir())
        main = [name for name in written if name.startswith("results_")]
        if len(main) != 1 or _read_json(partial / main[0]) is None:
            raise SettingError(f"--output_path: lm-eval could not write its results to {partial}")
        stamp = main[0].removeprefix("results_").removesuffix(".json")
        for task in results["configs"] if samples is not None else ():
            _check_samples(partial / f"samples_{task}_{stamp}.jsonl", len((samples or {})[task]))
        digests = {}
        for name in written:
            sync(partial / name)
            digests[name] = file_digest(partial / name)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / NOTE).unlink(missing_ok=True)
        for name in sorted(written, key=main.__contains__):  # the results after the samples
            (partial / name).replace(self.path / name)
        contents = {"key": self.key(), "results": main[0], "files": digests, **note}
        write_json(self.path / NOTE, contents)


def _check_samples(path: Path, count: int) -> None:
    """Refuse a samples file that lm-eval, which continues after errors, did not write whole.

    Raises:
        SettingError: it is missing, or lacks a part.
    """
    if not has_whole_lines(path, count):
        raise SettingError(
            f"--output_path: lm-eval could not write {path.name} whole (is the disk full?); the "
            f"point counts as unfinished"
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
