"""What several runs over the same requests share: prompt states and full depth's own answers.

Owns what is kept and how much of it. Prompts run at full depth whatever the exits, and so does the
reference, so a second run under other settings needs neither again. It does not know settings,
documents or how a state looks inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from dynamax_lm.engine.prefill import prefill
from dynamax_lm.models.stack import LayerStack

_GIB = 1 << 30


@dataclass
class Use:
    """How often something was found in a memory, and how often it had to be computed.

    Attributes:
        found: times it was there.
        computed: times it was not.
    """

    found: int = 0
    computed: int = 0

    def note(self, found: bool) -> None:
        """Count one look."""
        if found:
            self.found += 1
        else:
            self.computed += 1


@dataclass(frozen=True, slots=True)
class FullDepthScores:
    """The full-depth pass over a batch of continuations.

    Attributes:
        log_probabilities: (N, K) of the tokens asked about.
        most_likely: (N,) token ids.
    """

    log_probabilities: Tensor
    most_likely: Tensor


class Memory:
    """Prompt states, full-depth passes and full-depth answers of one loaded model.

    States are kept by batch, exactly as they were computed, so that a run that finds them gives the
    same numbers to the last bit. The first ones that fit stay and the others are computed again:
    runs go through the same batches in the same order, so that making room for the latest would
    throw each one out just before it is needed. What the reference needs is small and always kept.

    Args:
        most_bytes: of prompt states; 0 keeps none.
    """

    def __init__(self, most_bytes: int = _GIB) -> None:
        self._most_bytes = most_bytes
        self._states: dict[str, Any] = {}
        self._scores: dict[str, FullDepthScores] = {}
        self._answers: dict[str, tuple[int, ...]] = {}
        self.bytes = 0
        self.states, self.scores, self.answers = Use(), Use(), Use()

    def prompt_state(
        self, stack: LayerStack, prompts: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> Any:
        """An independent state whose row i has seen ``prompts[rows[i]]`` but its last token."""
        key = digest(*prompts)
        kept = self._states.get(key)
        self.states.note(kept is not None)
        if kept is None:
            kept = prefill(stack, prompts)
            size = tensor_bytes(kept)
            if self.bytes + size > self._most_bytes:
                own = list(rows) == list(range(len(prompts)))
                return kept if own else stack.take(kept, rows)
            self._states[key] = kept
            self.bytes += size
        return stack.take(kept, rows)

    def find_scores(self, key: str) -> FullDepthScores | None:
        """The full-depth pass kept under ``key``."""
        scores = self._scores.get(key)
        self.scores.note(scores is not None)
        return scores

    def keep_scores(self, key: str, scores: FullDepthScores) -> None:
        """Keep a full-depth pass; ``key`` stands for its tokens and its number type."""
        self._scores[key] = scores

    def find_answer(self, key: str | None) -> tuple[int, ...] | None:
        """Full depth's own answer to the request that ``key`` stands for; ``None`` knows none."""
        answer = None if key is None else self._answers.get(key)
        self.answers.note(answer is not None)
        return answer

    def keep_answer(self, key: str | None, answer: Sequence[int]) -> None:
        """Keep full depth's own answer, if the request has a key."""
        if key is not None:
            self._answers[key] = tuple(answer)


def digest(*parts: object) -> str:
    """A short key for tokens or settings, so that a memory need not hold them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a state: tensors, sequences, mappings and dataclasses of them."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return sum(tensor_bytes(one) for one in value)
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
