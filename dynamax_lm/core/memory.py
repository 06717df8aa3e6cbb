"""What several runs over the same requests share: prompt states, full depth's passes and answers.

Owns what is kept and how much of it. Prompts run at full depth whatever the exits, and so does the
reference, so a second run under other settings needs neither again; under exact state a survey of
the full-depth pass tells the second run's decisions too. It does not know settings, documents or
how a state looks inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from dynamax_lm.core.beside import TOKENS_AT_ONCE, Beside
from dynamax_lm.core.exit_probe import Reading, Survey
from dynamax_lm.core.prefill import prefill
from dynamax_lm.core.stack import LayerStack

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


@dataclass
class Origins:
    """How answers came about, counted in requests.

    Attributes:
        derived: wholly from a full-depth pass.
        partly: from one up to a first disagreement, and run from there.
        rows: run together with other thresholds, as rows of one batch.
        run: otherwise.
    """

    derived: int = 0
    partly: int = 0
    rows: int = 0
    run: int = 0

    def ran(self, requests: int, thresholds: int) -> None:
        """Count requests that were run under so many thresholds at once."""
        if thresholds > 1:
            self.rows += requests
        else:
            self.run += requests


class Memory:
    """Prompt states, full-depth passes, surveys and full-depth answers of one loaded model.

    States are kept by batch, exactly as they were computed, so that a run that finds them gives the
    same numbers to the last bit. The first ones that fit stay and the others are computed again:
    runs go through the same batches in the same order, so that making room for the latest would
    throw each one out just before it is needed. What the reference needs is small and always kept,
    and so are surveys without hidden states; those with them share the states' room.

    Args:
        most_bytes: of prompt states and surveyed hidden states; 0 keeps none.
        tokens_at_once: see ``Beside``; 0 runs each threshold by itself.
        derives: whether decisions may follow from a survey; if not, every run is really run.

    Attributes:
        bytes: of both, now.
        states: looks for prompt states.
        scores: looks for full-depth passes.
        answers: looks for full depth's own answers.
        beside: what is run for later runs at the same time.
        origins: how all answers given with this memory came about.
    """

    def __init__(
        self,
        most_bytes: int = _GIB,
        tokens_at_once: int = TOKENS_AT_ONCE,
        *,
        derives: bool = True,
    ) -> None:
        self.derives = derives
        self._most_bytes = most_bytes
        self._states: dict[str, Any] = {}
        self._scores: dict[str, Reading] = {}
        self._answers: dict[str, tuple[int, ...]] = {}
        self._passes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        self._surveys: dict[Hashable, Survey | None] = {}
        self.bytes = 0
        self.states, self.scores, self.answers = Use(), Use(), Use()
        self.beside = Beside(tokens_at_once, most_bytes)
        self.origins = Origins()

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

    def find_scores(self, key: str) -> Reading | None:
        """The full-depth pass kept under ``key``."""
        scores = self._scores.get(key)
        self.scores.note(scores is not None)
        return scores

    def keep_scores(self, key: str, scores: Reading) -> None:
        """Keep a full-depth pass; ``key`` stands for its tokens and its number type."""
        self._scores[key] = scores

    def survey(self, key: Hashable, make: Callable[[], Survey]) -> Survey | None:
        """The survey kept under ``key``, made once; ``None`` where an earlier one found no room.

        Args:
            key: stands for the pass, the exits, the measure and the heads.
            make: the survey.
        """
        if key in self._surveys:
            return self._surveys[key]
        survey = make()
        size = tensor_bytes(survey.hidden)
        fits = self.bytes + size <= self._most_bytes
        self._surveys[key] = survey if fits or not size else None
        self.bytes += size if fits else 0
        return survey

    def find_answer(self, key: str | None) -> tuple[int, ...] | None:
        """Full depth's own answer to the request that ``key`` stands for; ``None`` knows none."""
        answer = None if key is None else self._answers.get(key)
        self.answers.note(answer is not None)
        return answer

    def keep_answer(self, key: str | None, answer: Sequence[int]) -> None:
        """Keep full depth's own answer, if the request has a key."""
        if key is not None:
            self._answers[key] = tuple(answer)

    def find_pass(self, key: str | None, answer: Sequence[int]) -> tuple[int, ...] | None:
        """What a full-depth pass over ``answer`` emits; ``None`` where none was kept."""
        return None if key is None else self._passes.get((key, tuple(answer)))

    def keep_pass(self, key: str | None, answer: Sequence[int], emitted: Sequence[int]) -> None:
        """Keep what a full-depth pass over ``answer`` emits, if the request has a key."""
        if key is not None:
            self._passes[key, tuple(answer)] = tuple(emitted)


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
