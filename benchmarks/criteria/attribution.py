"""Attributes an error to the exit rule or to the state of skipped layers.

The teacher-forced agreement of a rule shows the error of its decisions; the same rule over the same
tokens in the engine, where skipped layers have the state of ``skipped_state`` alone, adds the error
of that state. Prompts are run once for all rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.criteria.states import States
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.score import TargetReader
from dynamax_lm.heads import ExitHeads


class Trial(NamedTuple):
    """A rule to run in the engine.

    Attributes:
        name: of the rule.
        confidence: its measure.
        exits: its exit layers.
        heads: its heads or translators, if any.
        thresholds: of each fold of documents.
        skipped_state: the skipped-state policy.
    """

    name: str
    confidence: str
    exits: tuple[int, ...]
    heads: ExitHeads | None
    thresholds: tuple[float, ...]
    skipped_state: str


@torch.inference_mode()
def engine_agreement(
    stack: Any,
    states: States,
    trials: Sequence[Trial],
    fold: NDArray[np.int64],
    documents: Sequence[int],
    batch_size: int,
) -> list[NDArray[np.float64]]:
    """Per trial (documents,), the share of tokens that the engine's exits emit as full depth does.

    Args:
        stack: the decoder.
        states: of full-depth answers; each is run again after its own prompt, and its tokens of
            text are compared.
        trials: rules.
        fold: (M,) of each document.
        documents: which to run.
        batch_size: documents of a batch, of prompts of similar length.
    """
    answers = states.answers()
    found = [np.zeros(len(documents)) for _ in trials]
    places = {number: place for place, number in enumerate(documents)}
    for group in tqdm(list(_groups(states, fold, documents, batch_size)), desc="engine"):
        prompts = [states.prompts[number] for number in group]
        state = prefill(stack, prompts)
        mark = stack.mark(state)
        inputs = [
            [prompt[-1], *answers[number][:-1]]
            for number, prompt in zip(group, prompts, strict=True)
        ]
        wanted = [token for number in group for token in answers[number]]
        for trial, agreement in zip(trials, found, strict=True):
            stack.rewind(state, mark)
            emitted = _run(stack, state, inputs, trial, trial.thresholds[fold[group[0]]])
            start = 0
            for number in group:
                stop = start + len(answers[number])
                same = np.array(emitted[start:stop]) == np.array(wanted[start:stop])
                agreement[places[number]] = same[: states.text[number]].mean()
                start = stop
    return found


def _run(
    stack: Any, state: Any, inputs: Sequence[Sequence[int]], trial: Trial, threshold: float
) -> list[int]:
    token_batch = TokenBatch.of(inputs, range(len(inputs)), stack.device)
    nothing_asked = torch.zeros(sum(token_batch.lengths), 0, dtype=torch.long, device=stack.device)
    reader = TargetReader(nothing_asked, torch.float32)
    run_token_batch(
        stack,
        state,
        token_batch,
        reader,
        policy=ExitPolicy(trial.exits, trial.confidence, threshold),
        skipped_state=trial.skipped_state,
        session=HeadSession.of(trial.heads, len(inputs)),
    )
    tokens: list[int] = reader.read().emitted.tolist()
    return tokens


def _groups(
    states: States, fold: NDArray[np.int64], documents: Sequence[int], size: int
) -> Iterator[list[int]]:
    """Documents of one fold at a time, shortest prompt first."""
    order = sorted(documents, key=lambda number: (fold[number], len(states.prompts[number])))
    group: list[int] = []
    for number in order:
        if group and (len(group) == size or fold[number] != fold[group[0]]):
            yield group
            group = []
        group.append(number)
    if group:
        yield group
