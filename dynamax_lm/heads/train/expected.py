"""About how long the phases of head training take, from a short trial of the same work.

The trial has heads of its own, and writes nothing that stays: no result of a run depends on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from dynamax_lm.engine.phase_timer import seconds_of
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.evaluate import hold_out
from dynamax_lm.heads.train.hidden_state_cache import Observer
from dynamax_lm.heads.train.plan import heads_config, objective_of, schedule_of, stream_of
from dynamax_lm.heads.train.schedule import Schedule
from dynamax_lm.heads.train.sources import LocalSource, Source
from dynamax_lm.heads.train.windows import Batch

_LONGEST = 4.0
"""Seconds of one pass of the trial through the backbone, about; else it has fewer rows."""


class Text(NamedTuple):
    """What is known of the training text before it is read.

    Attributes:
        batches: some of them.
        one_pass: number of batches until the text is read again; ``None`` where unknown.
    """

    batches: Sequence[Batch]
    one_pass: float | None


def read_ahead(options: argparse.Namespace, source: Source, backbone: Backbone) -> Text:
    """The first batches of ``source``."""
    stream = stream_of(options, source, backbone, "train")
    batches = stream.ahead()
    if not isinstance(source, LocalSource):
        return Text(batches, None)
    whole = len(source.items)
    return Text(batches, len(batches) * whole / stream.documents_read(whole))


def text_of(
    options: argparse.Namespace, documents: Sequence[Document], of: int, backbone: Backbone
) -> Text:
    """Some ``documents`` of a larger number ``of`` them, each a prompt with its answer."""
    source = LocalSource(tuple(documents), options.seed)
    everything = argparse.Namespace(**{**vars(options), "held_out": 0.0})
    batches = list(stream_of(everything, source, backbone, "train").once())
    return Text(batches, of * (1 - options.held_out) / options.batch_size)


def expected_seconds(
    options: argparse.Namespace,
    backbone: Backbone,
    text: Text,
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    processes: int,
    done: int,
) -> dict[str, float]:
    """Seconds of the steps that remain, and of calibration and evaluation, by phase.

    Args:
        options: of the command.
        backbone: the frozen model.
        text: to train on; without a batch nothing can be expected.
        autocast: of the run.
        processes: of the run, each with a batch at every step.
        done: steps that an interrupted run has behind it.
    """
    if not text.batches:
        return {}
    stages = _stages(schedule_of(options), done)
    pace = _Pace.of(options, backbone, text, autocast, stages)
    left = 0.0 if text.one_pass is None else max(0.0, text.one_pass / processes - done)
    seconds: dict[str, float] = {}
    for stage in stages:
        fresh = stage.steps if not options.cache or text.one_pass is None else 0.0
        if options.cache and text.one_pass is not None:
            fresh = min(stage.steps, left)
            left -= fresh
        seconds[stage.name] = (
            fresh * pace.fresh
            + (stage.steps - fresh) * pace.again
            + stage.steps * pace.steps[stage.name]
        )
    seconds["calibration and evaluation"] = _held_out_tokens(options, text) * pace.evaluated
    return seconds


class _Stage(NamedTuple):
    """Steps that train the same parts."""

    name: str
    steps: int
    translators: bool
    classifiers: bool


def _stages(schedule: Schedule, done: int) -> list[_Stage]:
    """The steps after the first ``done``, stage by stage."""
    first = schedule.translator_steps
    if schedule.joint:
        stages = [_Stage("joint steps", schedule.max_steps - done, True, True)]
    else:
        stages = [
            _Stage("translator steps", first - min(done, first), True, False),
            _Stage("classifier steps", schedule.max_steps - max(done, first), False, True),
        ]
    return [one for one in stages if one.steps > 0]


def _held_out_tokens(options: argparse.Namespace, text: Text) -> float:
    """Tokens evaluated on both halves of the held-out text."""
    most: float = options.calibration_tokens / 2
    if text.one_pass is None:
        return 2 * most
    each = sum(one.checked_tokens for one in text.batches) / len(text.batches)
    half: float = options.held_out / 2 / (1 - options.held_out)  # of the text that trains
    return 2 * min(most, text.one_pass * each * half)


class _Pace(NamedTuple):
    """Measured seconds.

    Attributes:
        fresh: of a batch through the backbone.
        again: of a batch that was read before.
        steps: of a training step after that, by stage.
        evaluated: of a held-out token.
    """

    fresh: float
    again: float
    steps: dict[str, float]
    evaluated: float

    @classmethod
    def of(
        cls,
        options: argparse.Namespace,
        backbone: Backbone,
        text: Text,
        autocast: Callable[[], AbstractContextManager[Any]],
        stages: Sequence[_Stage],
    ) -> _Pace:
        """Measured on a batch of middle size, each once, after a first pass over one row."""
        config = heads_config(options, backbone)
        with torch.random.fork_rng():
            heads = ExitHeads(config).to(backbone.stack.device)
        middle = sorted(text.batches, key=_size)[len(text.batches) // 2]
        one = _rows(middle, 1)
        backbone.observe(one, config.exit_layers)
        single = seconds_of(lambda: backbone.observe(one, config.exit_layers))
        some = _rows(middle, max(1, int(_LONGEST / max(single, 1e-9))))
        part = sum(map(_size, text.batches)) / len(text.batches) / _size(some)
        with TemporaryDirectory() as folder:
            observe = Observer(
                backbone, config.exit_layers, Path(folder) if options.cache else None
            )
            fresh = seconds_of(lambda: observe(some))
            again = seconds_of(lambda: observe(some)) if options.cache else fresh
            seen = observe(some)
        objective = objective_of(options, heads, backbone)
        optimizer = torch.optim.AdamW(heads.parameters(), lr=0.0)

        def step(stage: _Stage) -> None:
            with autocast():
                losses = objective(seen, stage.translators, stage.classifiers, 0)
            if losses.total.requires_grad:
                losses.total.backward()
                optimizer.step()
            optimizer.zero_grad()

        steps: dict[str, float] = {}
        for stage in stages:
            step(stage)
            steps[stage.name] = part * seconds_of(partial(step, stage))
        plain = Observer(backbone, config.exit_layers)
        evaluation = seconds_of(
            lambda: hold_out(heads.eval(), backbone, plain, [some], top_k=config.label_k, tokens=1)
        )
        return cls(part * fresh, part * again, steps, evaluation / some.checked_tokens)


def _size(batch: Batch) -> int:
    """Tokens with padding."""
    return batch.ids.numel()


def _rows(batch: Batch, rows: int) -> Batch:
    """The last rows, which are the longest."""
    return Batch.of(batch.windows()[-rows:])
