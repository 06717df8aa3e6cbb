"""From lm-eval's samples back to documents: the ranks and position of every token of their texts.

Tokens that only make a stop sequence are excluded: early layers predict them, and an upper bound
that counted them would be too high for the text.

This module joins the batches that a model answers with the documents that lm-eval scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from dynamax_lm.core.trace import record_of
from dynamax_lm.engine.generate import GeneratedAnswer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.headroom.probe import Ranks, rank_exits
from dynamax_lm.sweep.runner import ReuseRunner

_Answer = TypeVar("_Answer", ScoredAnswer, GeneratedAnswer)


@dataclass(frozen=True)
class Document:
    """The tokens of one document's texts, all requests and repeats together.

    Attributes:
        task: the task's name.
        doc_id: as in lm-eval's samples.
        ranks: (T, E) of every exit's token among full depth's.
        positions: (T,) of each token in its own sequence, prompt included, from 0.
    """

    task: str
    doc_id: int
    ranks: Ranks
    positions: npt.NDArray[np.int64]


class RankingRunner:
    """Attaches the ranks of every exit to every answer (``models.runner.Runner``).

    Answers and ranks of a batch share its prompt states, which are then discarded.

    Args:
        exits: candidate exit layers.
    """

    continuous: ClassVar[bool] = False

    def __init__(self, exits: Sequence[int]) -> None:
        self._exits = tuple(exits)

    def score(
        self, stack: StatefulStack, requests: Sequence[ScoreRequest], **options: Any
    ) -> list[ScoredAnswer]:
        """The engine's answers with their ranks."""
        runner = ReuseRunner(derives=False)
        answers = runner.score(stack, requests, **options)
        return self._ranked(stack, requests, answers, runner)

    def generate(
        self, stack: StatefulStack, requests: Sequence[GenerateRequest], **options: Any
    ) -> list[GeneratedAnswer]:
        """The engine's answers with their ranks."""
        runner = ReuseRunner(derives=False)
        answers = runner.generate(stack, requests, **options)
        return self._ranked(stack, requests, answers, runner)

    def _ranked(
        self,
        stack: StatefulStack,
        requests: Sequence[ScoreRequest] | Sequence[GenerateRequest],
        answers: list[_Answer],
        runner: ReuseRunner,
    ) -> list[_Answer]:
        prompts = [request.prompt for request in requests]
        tokens = [answer.trace.tokens for answer in answers]
        ranks = rank_exits(stack, prompts, tokens, self._exits, runner.cache)
        return [replace(one, attached=some) for one, some in zip(answers, ranks, strict=True)]


def documents_of(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Document]:
    """The documents of lm-eval's samples, task by task.

    Args:
        samples: of ``simple_evaluate`` in the same process, answered by a ``RankingRunner``.
    """
    found = [
        _document(task, sample)
        for task, some in samples.items()
        for sample in some
        if sample["filter"] == some[0]["filter"]  # each document once
    ]
    return [document for document in found if document is not None]


def _document(task: str, sample: Mapping[str, Any]) -> Document | None:
    """A document's tokens; ``None`` where its answers or their texts are empty."""
    ranks: list[Ranks] = []
    positions: list[npt.NDArray[np.int64]] = []
    for response in (one for repeats in sample["resps"] for one in repeats):
        record = record_of(response)
        assert record is not None, "our models' responses carry their records"
        for trace, attached in zip(record.traces, record.attached, strict=True):
            kept = len(trace.text)
            ranks.append(attached[:kept])
            positions.append(np.arange(kept) + trace.prompt_tokens)
    if not any(map(len, positions)):
        return None
    return Document(task, int(sample["doc_id"]), np.concatenate(ranks), np.concatenate(positions))
