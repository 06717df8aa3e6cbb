"""From lm-eval's samples back to documents: the ranks and position of every token of their texts.

Tokens that only make a stop sequence are excluded: early layers predict them, and an upper bound
that counted them would be too high for the text.

This module joins the batches that a model answers with the documents that lm-eval scores.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from dynamax_lm.common.passages import shared
from dynamax_lm.engine.generate import GeneratedAnswer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.harness.responses import record_of
from dynamax_lm.headroom.probe import PromptTry, Ranks, rank_exits
from dynamax_lm.reuse.reuse_runner import ReuseRunner

_Answer = TypeVar("_Answer", ScoredAnswer, GeneratedAnswer)


@dataclass(frozen=True)
class Document:
    """The tokens of one document's texts, all requests and repeats together.

    Attributes:
        task: the task's name.
        doc_id: as in lm-eval's samples.
        ranks: (T, E) of every exit's token among full depth's.
        positions: (T,) of each token in its own sequence, prompt included, from 0.
        prompts: (T, K) bool, whether full depth's token stays the most likely after a prompt that
            exits in each of K ways.
        requests: of each answer, tokens of its prompt without the last, and of its text.
        shared: keys, of which documents of a task about one passage have one in common.
    """

    task: str
    doc_id: int
    ranks: Ranks
    positions: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.bool_]
    requests: tuple[tuple[int, int], ...]
    shared: frozenset[str]


class RankingRunner:
    """Attaches the ranks of every exit to every answer (``models.runner.Runner``).

    Answers and ranks of a batch share its prompt states, which are then discarded.

    Args:
        exits: candidate exit layers.
        prompt_exits: ways in which prompts are tried to exit.
    """

    continuous: ClassVar[bool] = False

    def __init__(self, exits: Sequence[int], prompt_exits: Sequence[PromptTry] = ()) -> None:
        self._exits, self._prompt_exits = tuple(exits), tuple(prompt_exits)

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
        ranks = rank_exits(
            stack, prompts, tokens, self._exits, runner.cache, prompt_exits=self._prompt_exits
        )
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
    prompts: list[npt.NDArray[np.bool_]] = []
    requests: list[tuple[int, int]] = []
    positions: list[npt.NDArray[np.int64]] = []
    for response in (one for repeats in sample["resps"] for one in repeats):
        record = record_of(response)
        assert record is not None, "our models' responses carry their records"
        for trace, attached in zip(record.traces, record.attached, strict=True):
            kept = len(trace.text)
            ranks.append(attached.ranks[:kept])
            prompts.append(attached.prompts[:kept])
            requests.append((trace.prompt_tokens, kept))
            positions.append(np.arange(kept) + trace.prompt_tokens)
    if not any(map(len, positions)):
        return None
    return Document(
        task=task,
        doc_id=int(sample["doc_id"]),
        ranks=np.concatenate(ranks),
        positions=np.concatenate(positions),
        prompts=np.concatenate(prompts),
        requests=tuple(requests),
        shared=frozenset(f"{task} {key}" for key in _keys(sample)),
    )


def _keys(sample: Mapping[str, Any]) -> Collection[str]:
    doc = sample["doc"]
    return shared(doc) if isinstance(doc, Mapping) else {str(sample["doc_id"])}
