"""One certification: thresholds are tested in order on a loaded model until one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dynamax_lm import __version__
from dynamax_lm.certify.losses import Loss, choose_loss, losses_of, refuse_empty, unknown_metric
from dynamax_lm.certify.sample_size import needed_without_loss
from dynamax_lm.certify.sequence import DEFAULT_GRID, check_grid, fixed_sequence, last_passed
from dynamax_lm.certify.tasks import ChosenTask
from dynamax_lm.certify.units import CONTENTS
from dynamax_lm.common.certificate import (
    LEAST_UNITS,
    Certificate,
    CertifiedTask,
    GridPoint,
    TaskOutcome,
    p_value_of,
    pack,
    unit_means,
)
from dynamax_lm.common.durations import announcer, in_words
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.risk_tests import Losses
from dynamax_lm.harness.setup import setting_of, setup_of
from dynamax_lm.reuse.reuse_runner import ReuseRunner

Evaluate: TypeAlias = Callable[[Any, Sequence[ChosenTask]], Mapping[str, Sequence[Any]]]
"""``evaluate(lm, tasks)``: each task's logged samples of its documents, as lm-eval makes them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The hypothesis to test.

    Attributes:
        metric: ``agreement``, ``consistency`` or a metric of the task.
        risk: the bound on the mean loss, in (0, 1).
        delta: the bound on the probability of a false certificate, in (0, 1).
        thresholds: strictly decreasing.
        seed: of the draw of documents, and of the order of units.

    Raises:
        SettingError: a risk, delta or threshold out of range.
    """

    metric: str
    risk: float = 0.05
    delta: float = 0.05
    thresholds: tuple[float, ...] = DEFAULT_GRID
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("risk", "delta"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise SettingError(f"{name}={value}: give a number between 0 and 1, such as 0.05")
        object.__setattr__(self, "thresholds", check_grid(self.thresholds))


class MeasuredTask(NamedTuple):
    """One task at one threshold.

    Attributes:
        task: its name.
        mean_loss: over units.
        p_value: of the hypothesis that its risk is too high.
        flops_saved: mean over documents.
        losses: (N,), one for each document.
    """

    task: str
    mean_loss: float
    p_value: float
    flops_saved: float
    losses: Losses


class Measured(NamedTuple):
    """One threshold, tested.

    Attributes:
        threshold: in [0, 1].
        outcomes: one a task.
    """

    threshold: float
    outcomes: tuple[MeasuredTask, ...]

    @property
    def p_value(self) -> float:
        """Of the hypothesis that some task's risk is too high: the largest of all."""
        return max(outcome.p_value for outcome in self.outcomes)


def losses_for(question: Question, tasks: Sequence[ChosenTask]) -> list[Loss]:
    """Each task's loss, after the checks that need no model.

    Raises:
        SettingError: no task has the metric, or one has too few documents.
    """
    losses = []
    for chosen in tasks:
        directions = dict(chosen.task.higher_is_better())
        grouped = chosen.units < len(chosen.documents)
        loss = choose_loss(question.metric, directions, repeats=chosen.repeats, grouped=grouped)
        test = partial(p_value_of, loss.kind.method)
        needed = max(LEAST_UNITS, needed_without_loss(test, question.risk, question.delta))
        if chosen.units < needed:
            raise SettingError(too_few(question, chosen, needed))
        losses.append(loss)
    if not losses:
        raise unknown_metric(question.metric, ())
    return losses


def too_few(question: Question, chosen: ChosenTask, needed: int) -> str:
    """The error line for a task with too few documents."""
    out = chosen.repeated + chosen.overlapping
    left = f", {out} left out as repeated or used elsewhere" if out else ""
    form, several = "", ""
    if chosen.units < len(chosen.documents):
        by = "share a passage" if chosen.grouped_by == CONTENTS else f"agree in {chosen.grouped_by}"
        form = f", which form {chosen.units} independent units (those that {by} are one)"
        several = "; --group_by FIELD names another grouping"
    why = (
        "no fewer are taken"
        if needed == LEAST_UNITS
        else f"fewer cannot certify risk {question.risk:g} at delta {question.delta:g}, even "
        "without a loss"
    )
    return (
        f"tasks={chosen.name}: {len(chosen.documents)} documents{left}{form}; at least {needed} "
        f"are needed: {why}{several}"
    )


def certify(
    lm: Any,
    tasks: Sequence[ChosenTask],
    question: Question,
    evaluate: Evaluate,
    *,
    each: Callable[[Measured], None] = lambda point: None,
    known: Callable[[float], Measured | None] = lambda threshold: None,
    say: Callable[[str], None] = lambda line: None,
) -> Certificate:
    """Tests the grid on a loaded model.

    Several tasks are tested together: a threshold passes if every task's own test passes, so that
    the bound holds for each of them (an intersection-union test, which needs no correction).

    Args:
        lm: a loaded `DynamaxLM` with its reference on.
        tasks: with their documents.
        question: the hypothesis to test.
        evaluate: runs the model on the tasks' documents.
        each: called with every new outcome.
        known: the outcome of a threshold that was tested before, on the same documents under the
            same settings.
        say: called with a line before long work.

    Raises:
        SettingError: too few documents, an unknown metric, or a document without its value.
    """
    losses = losses_for(question, tasks)
    runner = ReuseRunner(derives=False)  # prompts and the reference once; every threshold is run

    tested = 0  # in this run

    def test(threshold: float) -> Measured:
        nonlocal tested
        if (before := known(threshold)) is not None:
            return before
        lm.change(threshold=threshold)
        on_expected = None if tested else announcer(say)
        begun = time.perf_counter()
        with lm.answered_by(runner, f"to certify threshold {threshold:g}", on_expected):
            samples = evaluate(lm, tasks)
        outcomes = [
            _outcome(chosen, loss, samples[chosen.name], question)
            for chosen, loss in zip(tasks, losses, strict=True)
        ]
        point = Measured(threshold, tuple(outcomes))
        each(point)
        tested += 1
        left = len(question.thresholds) - question.thresholds.index(threshold) - 1
        # The first one also computes what all share: prompts, and full depth's answers.
        if tested == 2 and left and point.p_value <= question.delta:
            seconds = left * (time.perf_counter() - begun)
            say(f"{left} more thresholds, fewer if one fails: {in_words(seconds)}")
        return point

    measured = list(fixed_sequence(question.thresholds, test, question.delta))
    best = last_passed(measured, question.delta)
    certified, grid = _written(tasks, losses, measured)
    return Certificate(
        metric=question.metric,
        risk=question.risk,
        delta=question.delta,
        threshold=None if best is None else best.threshold,
        grid=grid,
        seed=question.seed,
        tasks=certified,
        setting=setting_of(lm),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
    )


def _outcome(
    chosen: ChosenTask, loss: Loss, samples: Sequence[Any], question: Question
) -> MeasuredTask:
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    refuse_empty(chosen.name, first)
    losses = losses_of(loss, first, chosen.documents)
    saved = [sample["flops_saved"] for sample in first if "flops_saved" in sample]
    by_unit = unit_means(losses, np.array(chosen.unit_of))
    return MeasuredTask(
        task=chosen.name,
        mean_loss=float(by_unit.mean()),
        p_value=p_value_of(loss.kind.method, by_unit, question.risk, question.delta),
        flops_saved=float(np.mean(saved)) if saved else 0.0,
        losses=losses,
    )


def _written(
    tasks: Sequence[ChosenTask], losses: Sequence[Loss], measured: Sequence[Measured]
) -> tuple[tuple[CertifiedTask, ...], tuple[GridPoint, ...]]:
    """Tasks and grid in the form of the certificate: every loss as an index into a task's list."""
    certified = []
    places: list[list[str]] = []
    for number, (chosen, loss) in enumerate(zip(tasks, losses, strict=True)):
        seen = np.array([point.outcomes[number].losses for point in measured])
        values = np.unique(seen)
        places.append([pack(np.searchsorted(values, row)) for row in seen])
        certified.append(
            CertifiedTask(
                setup=setup_of(chosen.task),
                documents=len(chosen.documents),
                digest=chosen.digest,
                data=chosen.data,
                units=chosen.units,
                grouped_by=chosen.grouped_by,
                unit_of=pack(chosen.unit_of),
                loss=loss.kind.definition,
                method=loss.kind.method,
                values=tuple(values.tolist()),
            )
        )
    grid = [
        GridPoint(
            threshold=point.threshold,
            outcomes=tuple(
                TaskOutcome(
                    task=one.task,
                    mean_loss=one.mean_loss,
                    p_value=one.p_value,
                    flops_saved=one.flops_saved,
                    losses=packed[row],
                )
                for one, packed in zip(point.outcomes, places, strict=True)
            ),
        )
        for row, point in enumerate(measured)
    ]
    return tuple(certified), tuple(grid)
