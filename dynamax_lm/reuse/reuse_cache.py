"""A cache that runs over the same requests share: prompt states, full-depth passes and answers.

Prompts run in one way under all settings of one prompt exit, and the reference runs at full depth
under every setting, so that a second run under other settings can reuse both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from dynamax_lm.common.identity import digest
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.engine.reading import Reading
from dynamax_lm.engine.sources import Computed, FullDepthAnswers
from dynamax_lm.engine.state_size import tensor_bytes
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.reuse.threshold_replay import ThresholdReplay

MOST_BYTES = 1 << 30
"""Default size of the cache for prompt states."""


@dataclass
class Lookups:
    """Numbers of cache hits and misses.

    Attributes:
        found: hits.
        computed: misses.
    """

    found: int = 0
    computed: int = 0

    def note(self, found: bool) -> None:
        """Count one lookup."""
        if found:
            self.found += 1
        else:
            self.computed += 1


class CountedAnswers(FullDepthAnswers):
    """Full depth's answers, with a count of the lookups.

    Attributes:
        lookups: of full depth's own answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lookups = Lookups()

    def find_answer(self, key: str | None) -> tuple[int, ...] | None:
        """Full depth's own answer to the request of ``key``."""
        answer = super().find_answer(key)
        self.lookups.note(answer is not None)
        return answer


class ReuseCache:
    """Prompt states, full-depth passes, replays and full-depth answers of one loaded model.

    States are stored by batch, exactly as computed, so that a run that reuses them gives the same
    numbers to the last bit. The first ones that fit are kept and the others are computed again: all
    runs have the same batches in the same order, so that evicting the oldest would remove each one
    just before its next use. Full-depth answers, passes, and replays without hidden states are
    small and always kept; replays with hidden states count towards the size limit.

    Args:
        most_bytes: size limit of prompt states and replayed hidden states; 0 keeps none.

    Attributes:
        bytes: present size of both.
        states: lookups of prompt states.
        scores: lookups of full-depth passes.
        full_depth: full depth's own answers.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self.states, self.scores = Lookups(), Lookups()
        self.full_depth = CountedAnswers()
        self._states: dict[str, Any] = {}
        self._scores: dict[str, Reading] = {}
        self._replays: dict[Hashable, ThresholdReplay | None] = {}

    def prompt_state(
        self,
        stack: StatefulStack,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        prompt_exit: PromptExit | None = None,
        computed: Computed | None = None,
    ) -> Any:
        """An independent state whose row i has ``prompts[rows[i]]`` without its last token.

        Args:
            stack: the decoder.
            prompts: token ids.
            rows: of each row of the state, which prompt it has.
            prompt_exit: where these tokens exit; ``None`` for no exit.
            computed: computes what is not kept, after earlier batches; by default each alone.
        """
        layer, maps = prompt_exit or (None, None)
        shared = computed is not None  # with batches before, whose rounding it then has
        key = digest(layer, None if maps is None else maps.identity, shared, *prompts)
        kept = self._states.get(key)
        self.states.note(kept is not None)
        if kept is None:
            each = range(len(prompts))
            kept = (computed or Computed()).prompt_state(stack, prompts, each, prompt_exit)
            size = tensor_bytes(kept)
            if self.bytes + size > self.most_bytes:
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
        """Keep a full-depth pass; ``key`` identifies its tokens and number format."""
        self._scores[key] = scores

    def replay(self, key: Hashable, make: Callable[[], ThresholdReplay]) -> ThresholdReplay | None:
        """The replay kept under ``key``, made once; ``None`` where it exceeds the size limit.

        Args:
            key: identifies the pass, the exits, the measure and the heads.
            make: computes the replay.
        """
        if key in self._replays:
            return self._replays[key]
        replay = make()
        size = tensor_bytes(replay.hidden)
        fits = self.bytes + size <= self.most_bytes
        self._replays[key] = replay if fits or not size else None
        self.bytes += size if fits else 0
        return replay
