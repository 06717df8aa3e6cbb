"""Benchmarks of continuous batching: exits spread over the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.bench.decode import ours
from dynamax_lm.bench.exits import layer_time, unembed_time
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import Contestant, per_step, samples
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.flight import Flight

BATCH, _FLIGHT = 8, 32
"""Rows of a step, and in flight."""
SHORT = 2
"""Tokens of a row that are subtracted, with the prompt and the set-up of a run."""
_QUICK_STEPS = 8
_STEPS = {False: 24, True: 192}
"""Tokens of a row, by whether they run on a GPU, which records every shape of a step first."""


@dataclass(frozen=True, slots=True)
class Evenly(ExitPolicy):
    """A policy under which every exit is taken by as many tokens as full depth, at random.

    Attributes:
        random: source of the decisions.
    """

    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def exiting(self, confidence: Tensor, cutoffs: Tensor | None = None) -> Tensor:
        """(n,) bool: of the tokens at exit i of E, one in E + 1 - i; ``cutoffs`` is E + 1 - i."""
        assert cutoffs is not None
        drawn = torch.rand(confidence.shape, generator=self.random)
        return (drawn * cutoffs.cpu() < 1.0).to(confidence.device)

    def cutoffs_at(self, steps: Any) -> Tensor:
        """(N, E) E + 1 - i for every exit i."""
        exits = len(self.exit_layers)
        return torch.arange(exits + 1, 1, -1).float().expand(len(steps), exits)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Makes the decoder read ``Evenly.cutoffs_at``; it has no thresholds of its own."""

    def at(self, exit: int, step: int) -> float:
        """Never read."""
        raise NotImplementedError


def steps_of(subject: Subject) -> int:
    """Tokens of a row behind the seconds of one."""
    return _QUICK_STEPS if subject.quick else _STEPS[subject.stack.device.type == "cuda"]


CHECKS = {
    "top_prob": "",
    "saturation": ", checks of hidden states alone",
}
"""Measures whose exits are timed, and what is said of each; the second stands for heads too."""


def spread(subject: Subject) -> Iterator[Row]:
    """Exits spread evenly over the layers, 8 rows a step and 32 in flight, against full depth."""
    for confidence in CHECKS:
        yield from _spread(subject, confidence)


def spread_exits(layers: int) -> tuple[int, ...]:
    """Exits after every eighth of ``layers``."""
    return tuple(sorted({layers * place // BATCH for place in range(1, BATCH)} - {0}))


def exiting(
    subject: Subject, prompts: list[tuple[int, ...]], confidence: str, new: int
) -> Contestant:
    """Rows of ``new`` tokens whose exits are taken evenly, all ``prompts`` in flight."""
    exits = spread_exits(subject.layers)
    policy = Evenly(exits, confidence, 0.5, rule=_Rule())  # type: ignore[arg-type]
    return ours(subject, prompts, new, policy, flight=Flight(BATCH, len(prompts)))


def at_full_depth(subject: Subject, prompts: list[tuple[int, ...]], new: int) -> Contestant:
    """The same rows without exits."""
    return ours(subject, prompts, new, flight=Flight(BATCH))


def seconds_a_token(
    subject: Subject, prompts: list[tuple[int, ...]], confidence: str, tokens: int
) -> tuple[float, float]:
    """With exits and at full depth, from rows that are ``tokens`` longer than ``SHORT``."""
    long = SHORT + tokens
    taken = samples(
        {
            "short": exiting(subject, prompts, confidence, SHORT),
            "long": exiting(subject, prompts, confidence, long),
            "full short": at_full_depth(subject, prompts, SHORT),
            "full long": at_full_depth(subject, prompts, long),
        },
        subject.rounds,
    )
    mine = per_step("short", "long", tokens, taken) / len(prompts)
    return mine, per_step("full short", "full long", tokens, taken) / len(prompts)


def _spread(subject: Subject, confidence: str) -> Iterator[Row]:
    layers = subject.layers
    exits = spread_exits(layers)
    mine, full = seconds_a_token(
        subject, subject.prompts(_FLIGHT, 32), confidence, steps_of(subject)
    )
    ideal = _ideal(subject, exits, projects=confidence == "top_prob")
    what = (
        f"exits after {', '.join(map(str, exits))} of {layers} layers taken evenly, 8 rows a step"
        f"{CHECKS[confidence]}"
    )
    seconds = {"ours": mine, "full depth": full, "ideal": ideal}
    yield Row(
        "Continuous",
        subject.name,
        what,
        "a token / a token at full depth",
        mine / full,
        0.8,
        at_most=True,
        seconds=seconds,
    )
    yield Row("Continuous", subject.name, what, "ideal / ours", ideal / mine, 0.9, seconds=seconds)


def _ideal(subject: Subject, exits: tuple[int, ...], *, projects: bool) -> float:
    """A token's share of steps of 8 rows: layers run, state, and projections to the vocabulary.

    The state is that of the layers that a token skips, for 8 exited rows at once. Where a check
    ``projects``, there is a projection at every exit that a token reaches; else one to emit it.
    """
    leaving = 1 / (len(exits) + 1)
    layer = layer_time(subject, BATCH, BATCH) / BATCH
    state = layer_time(subject, BATCH, 0) / BATCH
    look = unembed_time(subject, BATCH) / BATCH
    total, alive, before = 0.0, 1.0, 0
    for exit in exits:
        total += alive * (exit - before) * layer + (alive if projects else leaving) * look
        total += leaving * (subject.layers - exit) * state
        alive, before = alive - leaving, exit
    return total + alive * ((subject.layers - before) * layer + look)
