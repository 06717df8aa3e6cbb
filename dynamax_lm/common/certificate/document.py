"""The certificate: a threshold with a bounded risk, its error probability, and its scope.

This module has the record, its strict JSON format with a seal, and the check whether it holds for a
given run. Reading one recomputes everything that follows from the stored losses. `certify` makes
certificates, `harness` shows them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from dynamax_lm.common.certificate.outcomes import CertifiedTask, GridPoint
from dynamax_lm.common.certificate.records import CertificateError, Record, check
from dynamax_lm.common.certificate.setup import Setting, TaskSetup, difference
from dynamax_lm.common.validation import NOT_EMPTY, Natural, OpenShare, Share, other_schema

if TYPE_CHECKING:
    from typing import Self

SCHEMA = 3
"""Version of the JSON format, raised where old readers would misread a value."""

NOT_CERTIFIED = "not certified here"
_SEAL = "seal"
_MOST_LISTED = 4


@dataclass(frozen=True, kw_only=True)
class Certificate(Record):
    """The outcome of one certification; without a certified threshold it is ``None``.

    Attributes:
        schema: version of this format.
        metric: whose loss is the risk: ``agreement``, ``consistency`` or a metric of the task.
        risk: the bound on the mean loss, in (0, 1).
        delta: the bound on the probability that the mean loss exceeds ``risk``.
        threshold: the last of the grid that passed.
        grid: every threshold tested, safest first; the last one failed unless the grid ended.
        seed: of the draw of documents and the order of units.
        tasks: the tested tasks; the bound holds for each of them.
        setting: the model and exits.
        date: ISO 8601, UTC.
        version: of dynamax_lm.
    """

    schema: int = SCHEMA
    metric: str
    risk: OpenShare
    delta: OpenShare
    threshold: Share | None
    grid: Annotated[tuple[GridPoint, ...], NOT_EMPTY]
    seed: Natural
    tasks: Annotated[tuple[CertifiedTask, ...], NOT_EMPTY]
    setting: Setting
    date: str
    version: str

    def __post_init__(self) -> None:
        _check_schema(self.schema)
        super().__post_init__()
        self._check_grid()
        self._check_outcomes()

    def _check_grid(self) -> None:
        """The grid must be a fixed sequence, and the threshold the last of it that passed."""
        thresholds = [point.threshold for point in self.grid]
        falling = all(high > low for high, low in pairwise(thresholds))
        check(falling, "grid", thresholds, "thresholds do not fall")
        names = [task.setup.name for task in self.tasks]
        for point in self.grid:
            tested = [outcome.task for outcome in point.outcomes]
            check(tested == names, "grid", tested, f"the tasks are {names}")
        passed = [point.p_value <= self.delta for point in self.grid]
        check(all(passed[:-1]), "grid", thresholds, "it goes on after a threshold that failed")
        last = self.certified_thresholds[-1] if any(passed) else None
        check(self.threshold == last, "threshold", self.threshold, f"the last to pass is {last}")

    def _check_outcomes(self) -> None:
        """Recompute everything that follows from the losses, and compare."""
        for task in self.tasks:
            task.kind(self.metric)
        for point in self.grid:
            for task, outcome in zip(self.tasks, point.outcomes, strict=True):
                outcome.verify(task, self.metric, self.risk, self.delta)

    @property
    def certified_thresholds(self) -> tuple[float, ...]:
        """Every threshold that passed: the bound holds for all of them at once."""
        return tuple(p.threshold for p in self.grid if p.p_value <= self.delta)

    @property
    def documents(self) -> int:
        """All documents of all tasks."""
        return sum(task.documents for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with a seal: the SHA-256 of all the others."""
        plain = super().to_json()
        return {**plain, _SEAL: _seal(plain)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The certificate that `to_json` wrote.

        Raises:
            CertificateError: a field is missing, unknown or of another type, contradicts others or
                the losses, or was changed after the certificate was sealed.
        """
        if not isinstance(data, Mapping):
            raise CertificateError("certificate: it is not a JSON object")
        _check_schema(data.get("schema"))
        fields = {name: value for name, value in data.items() if name != _SEAL}
        certificate = super().from_json(fields)
        seal = data.get(_SEAL)
        check(seal == _seal(fields), _SEAL, seal, "a field was changed after it was made")
        return certificate

    def dumps(self) -> str:
        """Strict JSON text."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str) -> Self:
        """The certificate in JSON text.

        Raises:
            CertificateError: not JSON, or not a certificate.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CertificateError(f"certificate: not JSON: {error}") from error
        return cls.from_json(data)


def _seal(plain: Mapping[str, Any]) -> str:
    told = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def _check_schema(schema: object) -> None:
    renew = "certify again, as it tested less"
    check(schema == SCHEMA, "schema", schema, other_schema(schema, SCHEMA, renew))


def why_not(
    certificate: Certificate, *, task: TaskSetup, setting: Setting, threshold: float
) -> str | None:
    """Why the certificate does not hold for a result, in one line; ``None`` where it does.

    Thresholds between two tested ones are not covered: exits change the state of later tokens, so
    that the risk need not be monotone in the threshold.

    Args:
        certificate: the certificate.
        task: the setup of the result's task.
        setting: the model and exits of the run.
        threshold: the run's.
    """
    if certificate.threshold is None:
        bound = f"{certificate.metric} risk {certificate.risk:g} at delta {certificate.delta:g}"
        return f"no threshold was certified for {bound}"
    if reason := difference(certificate.setting, setting):
        return reason
    if threshold not in certificate.certified_thresholds:
        return f"threshold is {threshold:g}, certified are {_listed(certificate)}"
    setups = {one.setup.name: one.setup for one in certificate.tasks}
    if task.name not in setups:
        return f"the certificate is for {', '.join(sorted(setups))}"
    if task.cached:
        return "lm-eval's request cache holds other requests than the task renders now"
    return difference(setups[task.name], task)


def _listed(certificate: Certificate) -> str:
    """The certified thresholds, short enough for a table."""
    values = certificate.certified_thresholds
    if len(values) > _MOST_LISTED:
        return f"{len(values)} from {min(values):g} to {max(values):g}"
    return ", ".join(f"{value:g}" for value in values)
