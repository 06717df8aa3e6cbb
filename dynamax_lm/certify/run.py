"""One certification: threshold after threshold on a loaded model, until one fails.

Owns the run. It does not know command lines or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from dynamax_lm import __version__
from dynamax_lm.certificate import Certificate, CertifiedTask, GridPoint, TaskOutcome
from dynamax_lm.certify.losses import (
    Loss,
    choose_loss,
    losses_of,
    refuse_empty,
    unknown_metric,
)
from dynamax_lm.certify.needed import LEAST, needed_without_loss
from dynamax_lm.certify.sequence import check_grid, fixed_sequence, last_passed
from dynamax_lm.certify.tasks import ChosenTask
from dynamax_lm.engine import Memory
from dynamax_lm.errors import SettingError
from dynamax_lm.harness.setup import setting_of, setup_of

DEFAULT_GRID = (
    *(0.999, 0.998, 0.995),
    *(0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 0.875, 0.85, 0.825),
    *(0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.1, 0.0),
)
"""Thresholds, safest first. A longer grid costs runs, no certainty."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be certified.

    Attributes:
        metric: ``agreement``, ``consistency`` or a metric of the task.
        risk: the bound on the mean loss, in (0, 1).
        delta: the bound on the probability of being wrong, in (0, 1).
        thresholds: strictly falling.
        num_fewshot: examples before each question; the task's own if ``None``.
        gen_kwargs: over the task's own, or ``None``.
        seed: of the order in which documents are looked at, and of the run.

    Raises:
        SettingError: a risk, delta or threshold out of range.
    """

    metric: str
    risk: float = 0.05
    delta: float = 0.05
    thresholds: tuple[float, ...] = DEFAULT_GRID
    num_fewshot: int | None = None
    gen_kwargs: dict[str, Any] | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        for name in ("risk", "delta"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise SettingError(f"{name}={value}: give a number between 0 and 1, such as 0.05")
        object.__setattr__(self, "thresholds", check_grid(self.thresholds))


def losses_for(question: Question, tasks: Sequence[ChosenTask]) -> list[Loss]:
    """Each task's loss, and the checks that need no model.

    Raises:
        SettingError: no task has the metric, or one has too few documents.
    """
    losses = []
    for chosen in tasks:
        directions = dict(chosen.task.higher_is_better())
        loss = choose_loss(question.metric, directions, chosen.repeats)
        needed = max(LEAST, needed_without_loss(loss.p_value, question.risk, question.delta))
        if len(chosen.documents) < needed:
            raise SettingError(too_few(question, chosen, needed))
        losses.append(loss)
    if not losses:
        raise unknown_metric(question.metric, ())
    return losses


def too_few(question: Question, chosen: ChosenTask, needed: int) -> str:
    """The line for a task whose documents cannot do."""
    out = chosen.repeated + chosen.overlapping
    left = f", {out} left out as repeated or used elsewhere" if out else ""
    why = (
        "no fewer are taken"
        if needed == LEAST
        else f"fewer cannot certify risk {question.risk:g} at delta {question.delta:g}, even "
        "without a loss"
    )
    return (
        f"tasks={chosen.name}: {len(chosen.documents)} documents{left}; at least {needed} are "
        f"needed: {why}"
    )


def certify(
    lm: Any,
    tasks: Sequence[ChosenTask],
    question: Question,
    *,
    each: Callable[[GridPoint], None] = lambda point: None,
) -> Certificate:
    """Tests the grid on a loaded model.

    Several tasks are tested together: a threshold passes if every task's own test passes, so that
    the bound holds for each of them (an intersection-union test, which needs no correction).

    Args:
        lm: a loaded `DynamaxLM` with its reference on.
        tasks: with their documents.
        question: what is to be certified.
        each: told every outcome as it comes.

    Raises:
        SettingError: too few documents, an unknown metric, or a document without its value.
    """
    losses = losses_for(question, tasks)
    lm.memory = Memory(derives=False)  # prompts and the reference once; every threshold really run

    def test(threshold: float) -> GridPoint:
        lm.change(threshold=threshold)
        samples = _evaluate(lm, tasks, question)
        outcomes = [
            _outcome(chosen, loss, samples[chosen.name], question)
            for chosen, loss in zip(tasks, losses, strict=True)
        ]
        point = GridPoint(threshold=threshold, outcomes=tuple(outcomes))
        each(point)
        return point

    try:
        grid = tuple(fixed_sequence(question.thresholds, test, question.delta))
    finally:
        lm.memory = None  # others who use the model know nothing of it
    best = last_passed(grid, question.delta)
    return Certificate(
        metric=question.metric,
        risk=question.risk,
        delta=question.delta,
        threshold=None if best is None else best.threshold,
        grid=grid,
        method="+".join(sorted({loss.method for loss in losses})),
        seed=question.seed,
        tasks=tuple(
            CertifiedTask(
                setup=setup_of(chosen.task),
                documents=len(chosen.documents),
                digest=chosen.digest,
                data=chosen.data,
            )
            for chosen in tasks
        ),
        setting=setting_of(lm),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
    )


def _evaluate(lm: Any, tasks: Sequence[ChosenTask], question: Question) -> dict[str, Any]:
    """lm-eval's own evaluation of the chosen documents; each task's logged samples."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[chosen.task for chosen in tasks],
        task_manager=TaskManager(include_defaults=False),  # the tasks are there; no index of all
        samples={chosen.name: list(chosen.documents) for chosen in tasks},
        num_fewshot=question.num_fewshot,
        gen_kwargs=question.gen_kwargs,
        bootstrap_iters=0,
        log_samples=True,
        random_seed=question.seed,
        numpy_random_seed=question.seed,
        torch_random_seed=question.seed,
        fewshot_random_seed=question.seed,
    )
    samples: dict[str, Any] = results["samples"]
    return samples


def _outcome(
    chosen: ChosenTask, loss: Loss, samples: Sequence[Any], question: Question
) -> TaskOutcome:
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    # A random order, chosen without looking: files are often sorted, and bets learn as they go.
    order = np.random.default_rng(question.seed).permutation(chosen.documents).tolist()
    refuse_empty(chosen.name, first)
    values = losses_of(loss, first, order)
    saved = [sample["flops_saved"] for sample in first if "flops_saved" in sample]
    return TaskOutcome(
        task=chosen.name,
        mean_loss=float(values.mean()),
        p_value=loss.p_value(values, question.risk, question.delta),
        flops_saved=float(np.mean(saved)) if saved else 0.0,
    )
