"""Every document's loss at every threshold, from which the certificate is recomputed.

This module has the records of tasks and outcomes, the compact format of the losses, and the
recomputation of means and p-values.

A unit is drawn independently: a document, or all documents that share a passage. Units are numbered
in the random order of the test.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamax_lm.common.certificate.losses import LossKind, loss_kind
from dynamax_lm.common.certificate.records import CertificateError, Record, check
from dynamax_lm.common.certificate.setup import TaskSetup
from dynamax_lm.common.validation import NOT_EMPTY, Count, Share, matching, within

Values: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]

LEAST_UNITS = 300
"""Least number of units: fewer are refused as too little evidence."""

_WIDTHS = ("<u1", "<u2", "<u4")
_LIKE = 1e-6
"""Relative difference up to which a recomputed number counts as the stored one."""


def pack(numbers: Sequence[int] | Numbers) -> str:
    """Whole numbers of at least 0 as text: width, colon, base64 of their deflated bytes."""
    array = np.asarray(numbers, dtype=np.int64)
    width = next(w for w in _WIDTHS if array.max(initial=0) <= np.iinfo(w).max)
    told = base64.b64encode(zlib.compress(array.astype(width).tobytes(), 9)).decode()
    return f"{width[1:]}:{told}"


def unpack(name: str, text: object, count: int) -> Numbers:
    """The numbers that `pack` wrote.

    Raises:
        CertificateError: not such a text, or another count.
    """
    check(isinstance(text, str), name, text, "not a string")
    width, _, told = str(text).partition(":")
    try:
        kind = np.dtype(f"<{width}" if f"<{width}" in _WIDTHS else "V")
        size = count * kind.itemsize
        data = zlib.decompressobj().decompress(base64.b64decode(told, validate=True), size + 1)
    except (ValueError, TypeError, OverflowError, binascii.Error, zlib.error) as error:
        raise CertificateError(f"certificate: {name}: cannot be unpacked: {error}") from error
    check(kind.itemsize > 0 and len(data) == size, name, text, f"holds no {count} numbers")
    return np.frombuffer(data, kind).astype(np.int64)


def unit_means(losses: Values, units: Numbers) -> Values:
    """The mean loss of each unit, in the order of the test.

    Args:
        losses: (N,), one for each document.
        units: (N,), the number of each document's unit, 0..U-1.

    Returns:
        (U,)
    """
    return np.bincount(units, losses) / np.bincount(units)


def p_value_of(method: str, losses: Values, risk: float, delta: float) -> float:
    """The p-value of the hypothesis that the risk is too high, by a test's name.

    Args:
        method: as `LossKind` has it.
        losses: (U,), one for each unit, in the order of the test.
        risk: in (0, 1).
        delta: in (0, 1).
    """
    from dynamax_lm.common import risk_tests as statistics

    tests = {
        "binomial": statistics.binomial,
        "betting": statistics.betting,
        "betting_on_differences": statistics.betting_on_differences,
    }
    return tests[method](losses, risk, delta)


@dataclass(frozen=True, kw_only=True)
class CertifiedTask(Record):
    """A task that was tested, and its documents.

    Attributes:
        setup: of the task.
        documents: their number; no two of them have the same contents.
        digest: SHA-256 over the sorted hashes of their contents.
        data: name of the file they came from, or ``None`` for the task's own data.
        units: number of independent units.
        grouped_by: ``contents`` (documents with a common passage, or equal contents, form a unit),
            or the field that groups them.
        unit_of: packed; the unit of each document.
        loss: definition of a document's loss; a unit's is the mean of its documents'.
        method: the test.
        values: the distinct observed losses, ascending; outcomes have indices into them.
    """

    setup: TaskSetup
    documents: Count
    digest: Annotated[str, matching("[0-9a-f]{64}", "a SHA-256")]
    data: str | None
    units: Count
    grouped_by: str
    unit_of: str
    loss: str
    method: str
    values: Annotated[tuple[float, ...], NOT_EMPTY]

    def __post_init__(self) -> None:
        super().__post_init__()
        values = self.values
        rising = all(np.diff(np.array(values, dtype=np.float64)) > 0)
        check(rising, "values", values, "do not rise")
        seen = np.unique(self.unit_numbers())
        whole_range = seen.size == self.units and int(seen[-1]) == self.units - 1
        check(whole_range, "units", self.units, f"its documents form {seen.size}")
        least = LEAST_UNITS
        check(self.units >= least, "units", self.units, f"no fewer than {least} are taken")

    def unit_numbers(self) -> Numbers:
        """(N,), the number of each document's unit."""
        return unpack("unit_of", self.unit_of, self.documents)

    def kind(self, metric: str) -> LossKind:
        """The loss of ``metric`` on this task; refuses another definition or test.

        Raises:
            CertificateError: no such metric, or another definition or test than recorded.
        """
        kind = loss_kind(
            metric,
            self.setup.metrics,
            repeats=self.setup.repeats,
            grouped=self.units < self.documents,
        )
        check(self.loss == kind.definition, "loss", self.loss, f"it is {kind.definition}")
        check(self.method == kind.method, "method", self.method, f"its test is {kind.method}")
        inside = kind.least <= self.values[0] and self.values[-1] <= 1
        check(inside, "values", self.values, f"losses lie in [{kind.least:g}, 1]")
        binary = kind.method != "binomial" or set(self.values) <= {0.0, 1.0}
        check(binary, "values", self.values, "the binomial test is for losses of 0 and 1")
        return kind


@dataclass(frozen=True, kw_only=True)
class TaskOutcome(Record):
    """One task at one threshold.

    Attributes:
        task: its name.
        mean_loss: over its units; at most 1, and negative where exits did better.
        p_value: of the hypothesis that the task's risk exceeds the bound.
        flops_saved: mean over documents, net; may be negative. Measured, not guaranteed.
        losses: packed; for each document the index of its loss in the task's values.
    """

    task: str
    mean_loss: Annotated[float, within(-1, 1)]
    p_value: Share
    flops_saved: Annotated[float, within(-math.inf, 1)]
    losses: str

    def of_units(self, task: CertifiedTask) -> Values:
        """(U,), the loss of each unit, in the order of the test."""
        places = unpack("losses", self.losses, task.documents)
        known = int(places.max()) < len(task.values)
        check(known, "losses", self.task, "refers to losses that are not listed")
        return unit_means(np.array(task.values)[places], task.unit_numbers())

    def verify(self, task: CertifiedTask, metric: str, risk: float, delta: float) -> None:
        """Recomputes mean and p-value from the losses.

        Raises:
            CertificateError: they differ from the stored ones.
        """
        losses = self.of_units(task)
        again = {
            "mean_loss": float(losses.mean()),
            "p_value": p_value_of(task.kind(metric).method, losses, risk, delta),
        }
        for name, value in again.items():
            stored = getattr(self, name)
            like = abs(stored - value) <= _LIKE * max(abs(value), 1e-12) + 1e-15
            check(like, name, stored, f"its losses give {value:.6g}")


@dataclass(frozen=True, kw_only=True)
class GridPoint(Record):
    """One tested threshold.

    Attributes:
        threshold: in [0, 1].
        outcomes: one for each task.
    """

    threshold: Share
    outcomes: Annotated[tuple[TaskOutcome, ...], NOT_EMPTY]

    @property
    def p_value(self) -> float:
        """Of the hypothesis that *some* task's risk exceeds the bound: the largest of all."""
        return max(outcome.p_value for outcome in self.outcomes)
