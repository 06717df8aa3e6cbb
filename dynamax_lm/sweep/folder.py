"""The folder of one point of a sweep: written by lm-eval's tracker, whole or not at all.

A finished point is recognised by its key, so that a repeated sweep does not run it again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_json
from dynamax_lm.harness.manifests import save_run

NOTE = "point.json"
"""The file that marks a finished point; written last."""


@dataclass(frozen=True)
class PointFolder:
    """The folder of one point.

    Attributes:
        path: the folder, named after the setting.
        key: identifies the command and everything that can change its results.
    """

    path: Path
    key: str

    def finished(self) -> dict[str, Any] | None:
        """The results of an earlier run of the same command, if they are complete."""
        note = _read_json(self.path / NOTE)
        if note is None or note.get("key") != self.key:
            return None
        if not all((self.path / name).is_file() for name in note["files"]):
            return None
        return _read_json(self.path / note["results"])

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
        partial.mkdir(parents=True)
        # A path that ends in .json is lm-eval's way to name the folder itself.
        tracker.output_path = str(partial / "results.json")
        save_run(tracker, results, samples)
        written = sorted(file.name for file in partial.iterdir())
        main = [name for name in written if name.startswith("results_")]
        wanted = 1 + (len(results["configs"]) if samples is not None else 0)
        manifests = sum(name.startswith("manifest_") for name in written)
        if len(main) != 1 or len(written) - manifests != wanted:
            raise SettingError(f"--output_path: lm-eval could not write its files to {partial}")
        self.path.mkdir(parents=True, exist_ok=True)
        for name in sorted(written, key=main.__contains__):  # the results after the samples
            (partial / name).replace(self.path / name)
        partial.rmdir()
        contents = {"key": self.key, "results": main[0], "files": written, **note}
        write_json(self.path / NOTE, contents)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
