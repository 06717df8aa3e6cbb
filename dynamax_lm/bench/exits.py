"""Early-exit benchmarks: seconds against the ideal, which is the measured time of the layers run.

Exits are scripted.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.bench.decode import ours
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import Contestant, medians, per_step, samples, seconds
from dynamax_lm.core.catchup import MOST_PENDING
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.segment import run_segment


@dataclass(frozen=True, slots=True)
class EveryFew(ExitPolicy):
    """A policy under which all tokens exit, except those of every few steps.

    Attributes:
        every: steps from one that runs to full depth to the next.
        checks: the checks so far.
    """

    every: int = 4
    checks: list[int] = field(default_factory=lambda: [0])

    def exiting(self, confidence: Tensor, *details: Any) -> Tensor:
        """(n,) bool: all or none."""
        del details
        self.checks[0] += 1
        return torch.full_like(confidence, self.checks[0] % self.every, dtype=torch.bool)


def steps_with_state(subject: Subject) -> int:
    """Tokens of a row under exits that none of its tokens passes, so many that all state is due.

    The state of the skipped layers is computed when more than ``MOST_PENDING`` tokens wait for it.
    """
    return subject.steps if subject.quick else 2 * (MOST_PENDING + 1)


def half_depth(subject: Subject, batch: int = 1) -> Iterator[Row]:
    """Every token exits at half depth."""
    half = subject.layers // 2
    policy = ExitPolicy((half,), "top_prob", 0.0)
    yield _against_ideal(subject, batch, policy, {half: batch}, "all exit at half depth", 0.95)


def caught_up(subject: Subject, every: int = 4) -> Iterator[Row]:
    """Half depth except for every fourth token, which runs pending ones too (``recompute``)."""
    half, steps = subject.layers // 2, subject.steps
    policy = EveryFew((half,), "top_prob", 0.5, every=every)
    prompts = subject.prompts(1, 32)
    contestants: dict[str, Contestant] = {}
    for new, length in [(2, "short"), (2 + steps, "long")]:
        contestants |= {
            f"recompute {length}": ours(subject, prompts, new, policy, skipped_state="recompute"),
            f"propagate {length}": ours(subject, prompts, new, policy),
            f"full {length}": ours(subject, prompts, new),
        }
    taken = samples(contestants, subject.rounds)
    names = {"recompute": "recompute", "propagate": "propagate", "full": "full depth"}
    found = {
        full: per_step(f"{name} short", f"{name} long", steps, taken)
        for name, full in names.items()
    }
    yield Row(
        "Exits",
        subject.name,
        f"batch 1, half depth, every {every}th token at full depth, skipped_state=recompute",
        "ours / full depth",
        found["recompute"] / found["full depth"],
        1.0,
        at_most=True,
        seconds=found,
    )


def _against_ideal(
    subject: Subject,
    batch: int,
    policy: ExitPolicy,
    leaving: dict[int, int],
    what: str,
    goal: float,
) -> Row:
    steps = steps_with_state(subject)
    prompts = subject.prompts(batch, 32)
    taken = samples(
        {
            "short": ours(subject, prompts, 2, policy),
            "long": ours(subject, prompts, 2 + steps, policy),
            "full short": ours(subject, prompts, 2),
            "full long": ours(subject, prompts, 2 + steps),
        },
        subject.rounds,
    )
    mine = per_step("short", "long", steps, taken)
    full = per_step("full short", "full long", steps, taken)
    ideal = _ideal(subject, batch, leaving)
    return Row(
        "Exits",
        subject.name,
        f"batch {batch}, {what}",
        "ideal / ours",
        ideal / mine,
        goal,
        seconds={"ours": mine, "ideal": ideal, "full depth": full},
    )


def _ideal(subject: Subject, batch: int, leaving: dict[int, int]) -> float:
    """Layers of the running rows, the state of exited ones, and a check at every exit."""
    alive, exited, total = batch, 0, 0.0
    run_time: dict[tuple[int, int], float] = {}
    for layer in range(subject.layers):
        key = (alive, exited)
        if key not in run_time:
            run_time[key] = layer_time(subject, batch, alive)
        total += run_time[key]
        if layer + 1 in leaving:
            total += unembed_time(subject, alive)  # the check; exiting rows reuse its projection
            alive, exited = alive - leaving[layer + 1], exited + leaving[layer + 1]
    return total + (unembed_time(subject, alive) if alive else 0.0)


def layer_time(subject: Subject, batch: int, alive: int) -> float:
    """Seconds of a layer with ``alive`` rows running, the others having exited below it.

    All layers run in turn, so that weights are read from memory as in a real step.
    """
    stack = subject.stack
    if stack.device.type != "cpu":
        return _recorded_layer_time(subject, batch, alive)
    prompts = subject.prompts(batch, 33)
    state = prefill(stack, prompts)
    token_batch = TokenBatch.of([[5]] * batch, range(batch), stack.device)
    mark = stack.mark(state)
    times: list[float] = []
    for _ in range(max(5, subject.rounds)):
        stack.rewind(state, mark)
        run = stack.begin(state, token_batch, "propagate")
        hidden = stack.embed(run)
        if alive < batch:
            leaving = torch.arange(batch) < batch - alive
            run.freeze(leaving, hidden)
            hidden = hidden[~leaving]

        def layers(hidden: Tensor = hidden, run: Any = run) -> None:
            for index in range(stack.n_layers):
                hidden = stack.layer(index, hidden, run)

        times.append(seconds(layers) / stack.n_layers)
    return statistics.median(times)


def _recorded_layer_time(subject: Subject, batch: int, alive: int) -> float:
    """The same on a GPU, where steps are recorded: rows of one step all run, or none does.

    Where none runs, the layers get the state of many exited tokens at once. The last tokens of the
    prompts are run again, so that every step has the same shape.
    """
    stack, count = subject.stack, 1 if alive else MOST_PENDING
    state = prefill(stack, subject.prompts(batch, 33 + count))
    token_batch = TokenBatch.of_pending([[5] * count] * batch, range(batch), stack.device)
    hidden = stack.embed(stack.begin(state, token_batch, "propagate"))

    def step() -> None:
        running = None if alive else 0
        run_segment(
            stack, state, token_batch, range(1, stack.n_layers), hidden, "propagate", running
        )

    for _ in range(2):  # run, then recorded
        step()
    times = [seconds(step) for _ in range(max(5, subject.rounds))]
    return statistics.median(times) / ((subject.layers - 1) * count)


def unembed_time(subject: Subject, rows: int) -> float:
    """Seconds of one vocabulary projection, with its weights in memory and not in a cache."""
    config = subject.config
    hidden = torch.randn(rows, config.hidden_size, device=subject.stack.device)
    hidden = hidden.to(subject.model.dtype)
    flush = torch.ones(16 << 20, device=subject.stack.device)
    times = []
    for _ in range(max(5, subject.rounds)):
        flush.add_(1.0)  # 64 MiB replace the contents of the caches
        times.append(seconds(lambda: subject.stack.unembed(hidden)))
    return statistics.median(times)


def multiple_choice(subject: Subject) -> Iterator[Row]:
    """Scoring four options whose tokens exit after three quarters of the layers."""
    from dynamax_lm.engine.score import ScoreRequest, score

    batch, tokens = (2, 8) if subject.quick else (8, 32)
    cut = subject.layers * 3 // 4
    prompts = subject.prompts(batch // 2, tokens)
    answers = subject.prompts(batch, tokens)
    requests = [
        ScoreRequest(prompts[number % len(prompts)], answer)
        for number, answer in enumerate(answers)
    ]
    policy = ExitPolicy((cut,), "saturation", 0.0)  # a check that needs no projection
    only_prompts = [ScoreRequest(prompt, answers[0][:1]) for prompt in prompts]
    taken = samples(
        {
            "full": lambda: score(subject.stack, requests),
            "exits": lambda: score(subject.stack, requests, policy=policy),
            "prompt": lambda: prefill(subject.stack, [one.prompt for one in only_prompts]),
        },
        subject.rounds,
    )
    found = medians(taken)
    answer_full, answer_exits = found["full"] - found["prompt"], found["exits"] - found["prompt"]
    projection = unembed_time(subject, batch * tokens)
    expected = (answer_full - projection) * cut / subject.layers + projection
    yield Row(
        "Scoring",
        subject.name,
        f"{batch} answers of {tokens} tokens, all exit after {cut} of {subject.layers} layers",
        "time in proportion to layers / ours (answers' share)",
        expected / answer_exits,
        0.9,
        seconds=found,
    )
