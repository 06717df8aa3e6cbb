"""From lm-eval's samples back to documents: the ranks and position of every token of their texts.

Tokens that only make a stop are left out: every early layer predicts them, and a ceiling that
counted them would promise what no answer can keep.

Owns the link between the batches that a model answers and the documents that lm-eval scores. It
does not know what is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dynamax_lm.core.memory import Memory
from dynamax_lm.core.stack import LayerStack
from dynamax_lm.core.trace import AnswerTrace, record_of
from dynamax_lm.headroom.probe import Ranks, probe

if TYPE_CHECKING:
    from dynamax_lm.models.lm import DynamaxLM


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


class Probing:
    """Probes every batch that a model answers; give it to the model as its watcher.

    Args:
        lm: the model, at full depth.
        exits: candidate exit layers.
    """

    def __init__(self, lm: DynamaxLM, exits: Sequence[int]) -> None:
        self._lm = lm
        self._exits = tuple(exits)
        self._found: dict[int, tuple[AnswerTrace, Ranks]] = {}
        lm.memory = Memory()

    def seen(
        self, stack: LayerStack, prompts: Sequence[tuple[int, ...]], traces: Sequence[AnswerTrace]
    ) -> None:
        """Probe a batch; the prompts' states are forgotten after it."""
        memory = self._lm.memory or Memory()
        ranks = probe(stack, prompts, [trace.tokens for trace in traces], self._exits, memory)
        for trace, some in zip(traces, ranks, strict=True):
            self._found[id(trace)] = (trace, some)  # held, so that no other takes its id
        self._lm.memory = Memory()

    def documents(self, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Document]:
        """The documents behind lm-eval's samples, task by task.

        Args:
            samples: of ``simple_evaluate`` in the same process, responses as the model gave them.
        """
        found = [
            self._document(task, sample)
            for task, some in samples.items()
            for sample in some
            if sample["filter"] == some[0]["filter"]  # each document once
        ]
        return [document for document in found if document is not None]

    def _document(self, task: str, sample: Mapping[str, Any]) -> Document | None:
        """A document's tokens; ``None`` where it has none, as an empty answer or a text of none."""
        ranks: list[Ranks] = []
        positions: list[npt.NDArray[np.int64]] = []
        for response in (one for repeats in sample["resps"] for one in repeats):
            record = record_of(response)
            assert record is not None, "our models' responses carry their records"
            for trace in record.traces:
                kept = len(trace.text)
                ranks.append(self._found[id(trace)][1][:kept])
                positions.append(np.arange(kept) + trace.prompt_tokens)
        if not any(map(len, positions)):
            return None
        return Document(
            task, int(sample["doc_id"]), np.concatenate(ranks), np.concatenate(positions)
        )
