"""The run of each model of this process, and which of them made a record.

A run has the totals and notes of an evaluation. It belongs to its model, which stores the return
value of :func:`open_run`; code that has the model reads the run there.

The list of open runs is for the one place without the model: lm-eval calls ``apply_filters`` with a
task's answers alone. Answers cannot carry their run, since those of a response cache are unpickled,
so a record carries its fingerprint, which is looked up among the open runs. Two models of the same
settings have one fingerprint: the run made current last is used.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dynamax_lm.common.certificate import TaskSetup
from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.totals import RunTotals
from dynamax_lm.core.trace import ExitRecord
from dynamax_lm.harness.responses import record_of


class Ranks(Protocol):
    """The part of lm-eval's ``LM`` for data-parallel processes."""

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def world_size(self) -> int:
        """How many processes share the run."""

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """Every rank's ``obj`` on rank ``dst``, in rank order; ``None`` elsewhere."""


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model under evaluation, as the harness announces it.

    Attributes:
        fingerprint: identifies the model and every setting that can change a number; every record
            of the run must carry it.
        settings: of the run's configuration block, as JSON values.
        layers: the model's decoder layers, L.
        trace_dir: folder for one JSON line a token, or ``None``.
        certificate: the JSON object in the configuration of the model's heads, or ``None``.
        costs: the architecture's widths for the ledger, as JSON values: enough to recompute every
            bill without the checkpoint.
        identity: the JSON values of which the fingerprint is the digest.
    """

    fingerprint: str
    settings: Mapping[str, Any]
    layers: int
    trace_dir: Path | None = None
    certificate: Mapping[str, Any] | None = None
    costs: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """One model's current evaluation.

    Attributes:
        live: the model's announcement.
        totals: pooled over all ranks.
        skipped: for each task, metrics that are not reported, and why.
        setups: of each task, if the heads carry a certificate.
    """

    live: LiveModel
    ranks: weakref.ref[Ranks]
    totals: RunTotals = field(default_factory=RunTotals)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    setups: dict[str, TaskSetup] = field(default_factory=dict)
    evaluation: int = -1
    warned: bool = False

    def enter(self, evaluation: int) -> None:
        """Discards totals of an earlier evaluation of the same model."""
        if evaluation != self.evaluation:
            self.totals, self.skipped, self.setups = RunTotals(), {}, {}
            self.evaluation, self.warned = evaluation, False


_open: list[weakref.ref[Run]] = []


def open_run(lm: Ranks, live: LiveModel) -> Run:
    """Opens the run of a model, or of its new settings, which end the run before.

    Returns:
        The run, which is open while the model has it as ``early_exit_run``.
    """
    run = Run(live, weakref.ref(lm))
    _open[:] = [weakref.ref(other) for other in _alive() if other.ranks() is not lm]
    _open.append(weakref.ref(run))
    return run


def run_of(lm: object) -> Run | None:
    """The run of one of this package's models."""
    return getattr(lm, "early_exit_run", None)


def latest_named(model: object) -> Run | None:
    """The latest open run of a model announced under this name."""
    named = (run for run in reversed(_alive()) if run.live.settings.get("model") == model)
    return next(named, None)


def certificate_at_stake() -> bool:
    """Whether the heads of the model that is evaluated carry a certificate."""
    return any(run.live.certificate is not None for run in _alive()[-1:])


def bring_forward(lm: object) -> None:
    """Makes a model's run the latest, before the model is evaluated."""
    _open.sort(key=lambda one: one() is run_of(lm))


def _alive() -> list[Run]:
    """The open runs whose models are alive, the latest last."""
    runs = [run for run in (one() for one in _open) if run is not None]
    return [run for run in runs if run.ranks() is not None]


def run_behind(records: Iterable[ExitRecord]) -> Run:
    """The run that made all these records.

    Raises:
        SettingError: no live model did, or not all of them.
    """
    prints = {record.fingerprint for record in records}
    # The latest one: two models may have the same settings.
    run = next((run for run in reversed(_alive()) if run.live.fingerprint in prints), None)
    if run is None or len(prints) > 1:
        raise stale()
    return run


def check_cached(response: object, live: LiveModel) -> None:
    """Refuses a cached response that ``live`` did not make.

    Raises:
        SettingError: it carries no record, or another fingerprint's.
    """
    record = record_of(response)
    if record is None:
        raise recordless()
    if record.fingerprint != live.fingerprint:
        raise stale()


def stale() -> SettingError:
    """The error for responses of other settings."""
    return SettingError(
        "use_cache: the response cache holds answers made under other settings of model_args; "
        "give --use_cache another path, or delete its .db file"
    )


def outdated() -> SettingError:
    """The error for responses of an earlier version of the package."""
    return SettingError(
        "use_cache: the response cache was filled by another version of dynamax_lm; give "
        "--use_cache another path, or delete its .db file"
    )


def recordless() -> SettingError:
    """The error for responses of another model."""
    return SettingError(
        "use_cache: the response cache holds answers of another model, without depths and costs; "
        "give --use_cache another path, or delete its .db file"
    )
