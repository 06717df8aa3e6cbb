"""Benchmarks of continuous batching: exits spread over the layers, uneven answers, shared shots."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.bench.decode import ours
from dynamax_lm.bench.exits import layer_time, unembed_time
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.runs import embedded
from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import alternate, per_step, samples
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.flight import Flight

_BATCH, _FLIGHT = 8, 32
_MOST = 64
"""Tokens of the longest answer."""


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


def spread(subject: Subject, confidence: str = "top_prob") -> Iterator[Row]:
    """Exits spread evenly over the layers, 8 rows a step and 32 in flight, against full depth."""
    layers = subject.layers
    exits = tuple(sorted({layers * place // _BATCH for place in range(1, _BATCH)} - {0}))
    steps = 8 if subject.quick else 24
    prompts = subject.prompts(_FLIGHT, 32)

    def exiting(new: int) -> Any:
        policy = Evenly(exits, confidence, 0.5, rule=_Rule())  # type: ignore[arg-type]
        return ours(subject, prompts, new, policy, flight=Flight(_BATCH, _FLIGHT))

    taken = samples(
        {
            "short": exiting(2),
            "long": exiting(2 + steps),
            "full short": ours(subject, prompts, 2, flight=Flight(_BATCH)),
            "full long": ours(subject, prompts, 2 + steps, flight=Flight(_BATCH)),
        },
        subject.rounds,
    )
    mine = per_step("short", "long", steps, taken) / _FLIGHT
    full = per_step("full short", "full long", steps, taken) / _FLIGHT
    ideal = _ideal(subject, exits)
    what = (
        f"exits after {', '.join(map(str, exits))} of {layers} layers taken evenly, 8 rows a step"
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


def _ideal(subject: Subject, exits: tuple[int, ...]) -> float:
    """A token's share of steps of 8 rows: layers run, a check an exit, the last projection."""
    leaving = 1 / (len(exits) + 1)
    layer = layer_time(subject, _BATCH, _BATCH) / _BATCH
    look = unembed_time(subject, _BATCH) / _BATCH
    total, alive, before = 0.0, 1.0, 0
    for exit in exits:
        total += alive * ((exit - before) * layer + look)
        alive, before = alive - leaving, exit
    return total + alive * ((subject.layers - before) * layer + look)


def against_hf(subject: Subject) -> Iterator[Row]:
    """Documents at full depth on the embedded model, against lm-eval's ``hf``, batch size 8."""
    from lm_eval.models.huggingface import HFLM

    from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral

    shared = {"pretrained": embedded(subject), "batch_size": _BATCH, "dtype": "float32"}
    shared["device"] = str(subject.stack.device)
    hf = HFLM(**shared)
    mine = (DynamaxMistral if subject.attention else DynamaxMamba)(**shared, mode="full")
    name = subject.name.split()[0] + " tiny"
    documents = 16 if subject.quick else 200
    models: dict[str, Any] = {"hf": hf, "ours": mine}
    works = {
        f"{documents} documents, answers of 1 to {_MOST} tokens": (_uneven(documents), 2.5),
        f"{documents} documents after the same 5 shots": (_shots(documents), 3.0),
    }
    for what, (requests, goal) in works.items():
        runs = {key: partial(lm.generate_until, requests, True) for key, lm in models.items()}
        yield _row(name, what, alternate(runs, max(1, subject.rounds // 2)), goal)
    limit = 4 if subject.quick else None
    for task in ("dynamax_truthfulqa_mc1_sample", "dynamax_truthfulqa_mc2_sample"):
        runs = {key: partial(_evaluate, lm, task, limit) for key, lm in models.items()}
        found = alternate(runs, max(1, subject.rounds // 2))
        yield _row(name, f"multiple choice, {task}", found, 2.0)


def _row(name: str, what: str, found: dict[str, float], goal: float) -> Row:
    return Row(
        "Continuous",
        name,
        f"{what}, mode=full",
        "lm-eval hf / ours",
        found["hf"] / found["ours"],
        goal,
        seconds=found,
    )


def _evaluate(lm: Any, task: str, limit: int | None) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    simple_evaluate(
        lm,
        tasks=[task],
        task_manager=TaskManager(),
        bootstrap_iters=0,
        verbosity="ERROR",
        limit=limit,
    )


def _questions() -> list[str]:
    from lm_eval.tasks import TaskManager, get_task_dict

    (task,) = get_task_dict(["dynamax_triviaqa_sample"], TaskManager()).values()
    return [str(doc["question"]) for doc in task.eval_docs]


def _uneven(documents: int) -> list[Any]:
    """Prompts of a few tokens, and answers whose lengths are spread from 1 to 64 tokens."""
    questions, draw = _questions(), random.Random(0)
    return [
        _request(f"{number}: {questions[number % len(questions)]}", draw.randint(1, _MOST))
        for number in range(documents)
    ]


def _shots(documents: int) -> list[Any]:
    """Questions after five answered ones, the same for all."""
    questions = _questions()
    header = "".join(f"Question: {one}\nAnswer: of course\n\n" for one in questions[:5])
    return [
        _request(f"{header}Question: {number}: {questions[number % len(questions)]}\nAnswer:", 8)
        for number in range(documents)
    ]


def _request(prompt: str, tokens: int) -> Any:
    from lm_eval.api.instance import Instance

    options = {"until": ["\0"], "max_gen_toks": tokens, "do_sample": False}
    return Instance("generate_until", {}, (prompt, options), 0)
