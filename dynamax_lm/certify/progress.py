"""Thresholds that an interrupted certification has tested, on disk until it ends.

The same command goes on from them: same options, checkpoint, heads, tasks and documents, and the
same version. It does not know how thresholds are tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dynamax_lm.certify.run import Measured, MeasuredTask
from dynamax_lm.common.outputs import write_text

FILE = "certify_progress.jsonl"
"""Not ``.json``, as the contents of a heads folder are: it is none of them."""


class Progress:
    """A file of tested thresholds: a line with a key, and one line for each threshold."""

    def __init__(self, folder: Path, key: str) -> None:
        """Read the thresholds that a command of the same key has left.

        The last of them is tested again: how requests are rendered is recorded as they are built.

        Args:
            folder: where the file stands.
            key: of everything that the outcomes depend on.
        """
        self._path = folder / FILE
        self._key = key
        self._kept = {point.threshold: point for point in list(_read(self._path, key))[:-1]}
        self._points: list[Measured] = []

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, threshold: float) -> Measured | None:
        """The outcome of a threshold, if it was kept."""
        point = self._kept.get(threshold)
        if point is not None:
            self._points.append(point)
        return point

    def keep(self, point: Measured) -> None:
        """Write a new outcome behind the ones before."""
        self._points.append(point)
        lines = [{"key": self._key}, *map(_written, self._points)]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    def end(self) -> None:
        """Remove the file: the certificate is written."""
        self._path.unlink(missing_ok=True)


def _written(point: Measured) -> dict[str, Any]:
    outcomes = [one._asdict() | {"losses": one.losses.tolist()} for one in point.outcomes]
    return {"threshold": point.threshold, "outcomes": outcomes}


def _read(path: Path, key: str) -> Iterator[Measured]:
    """The points of a file with this key; none of another's, or of a damaged file."""
    try:
        first, *lines = map(json.loads, path.read_text("utf-8").splitlines())
        if first != {"key": key}:
            return
        for line in lines:
            yield Measured(
                float(line["threshold"]),
                tuple(
                    MeasuredTask(**{**one, "losses": np.asarray(one["losses"], dtype=float)})
                    for one in line["outcomes"]
                ),
            )
    except (OSError, ValueError, KeyError, TypeError):
        return
