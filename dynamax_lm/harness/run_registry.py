"""The run of each model of this process, and which of them made a record.

Owns what a run has shown so far, and the way from a record's fingerprint to its run. A run belongs
to its model, which keeps what :func:`open_run` returns; whoever has the model reads the run there.

The list of open runs is for the one place that has no model: lm-eval hands a task's answers to
``apply_filters`` without saying who gave them. Answers cannot carry their run either, since those
of a response cache come out of a pickle, so a record carries its fingerprint, which is looked up
among the open runs. Two models of the same settings have one fingerprint: the run that was brought
forward last is taken. This module does not know what the numbers mean or how lm-eval is hooked.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dynamax_lm.common.certificate import TaskSetup
from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.summary import RunTotals
from dynamax_lm.core.trace import ExitRecord, record_of


class Ranks(Protocol):
    """The part of lm-eval's ``LM`` that joins data-parallel processes."""

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
    """What the report must know of a model under evaluation.

    Attributes:
        fingerprint: identifies the model and every setting that can change a number; every record
            of the run must carry it.
        settings: what the run's configuration block shows, as JSON values.
        layers: the model's decoder layers, L.
        trace_dir: folder for one JSON line a token, or ``None``.
        certificate: the JSON object that the model's heads carry, or ``None``.
        costs: the architecture's widths that the ledger counts with, as JSON values: enough to
            recompute every bill without the checkpoint.
        identity: what the fingerprint is the digest of, as JSON values.
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
        skipped: for each task, what was left out and why.
        setups: how each task asked, where a certificate may speak for it.
    """

    live: LiveModel
    ranks: weakref.ref[Ranks]
    totals: RunTotals = field(default_factory=RunTotals)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    setups: dict[str, TaskSetup] = field(default_factory=dict)
    evaluation: int = -1
    warned: bool = False

    def enter(self, evaluation: int) -> None:
        """Forgets what an earlier evaluation of the same model has shown."""
        if evaluation != self.evaluation:
            self.totals, self.skipped, self.setups = RunTotals(), {}, {}
            self.evaluation, self.warned = evaluation, False


_open: list[weakref.ref[Run]] = []


def open_run(lm: Ranks, live: LiveModel) -> Run:
    """Opens the run of a model, or of its new settings, which end the run before.

    Returns:
        The run, which is open while the model keeps it as ``early_exit_run``.
    """
    run = Run(live, weakref.ref(lm))
    _open[:] = [weakref.ref(other) for other in _alive() if other.ranks() is not lm]
    _open.append(weakref.ref(run))
    return run


def run_of(lm: object) -> Run | None:
    """The run that a model of ours keeps."""
    return getattr(lm, "early_exit_run", None)


def latest_named(model: object) -> Run | None:
    """The latest open run of a model that announced itself under this name."""
    named = (run for run in reversed(_alive()) if run.live.settings.get("model") == model)
    return next(named, None)


def certificate_at_stake() -> bool:
    """Whether the heads of the model that is evaluated carry a certificate."""
    return any(run.live.certificate is not None for run in _alive()[-1:])


def bring_forward(lm: object) -> None:
    """Makes a model's run the latest: the model is about to be evaluated."""
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
