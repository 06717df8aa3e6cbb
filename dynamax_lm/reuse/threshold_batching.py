"""Several thresholds of the same requests at once, as rows of one batch.

Where an exit changes the state of later tokens, no threshold's answers follow from another's; but
rows of one batch are independent, so that they may differ in their thresholds as well as in their
requests. This module selects the thresholds that run together, and stores answers for later runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

TOKENS_AT_ONCE = 128
"""See ``ThresholdBatcher``; measured on a CPU, where larger values are no faster."""


@dataclass
class ThresholdBatcher:
    """Thresholds under which later runs have the same requests, and the answers kept for them.

    Attributes:
        tokens_at_once: largest number of tokens in one pass through the layers. A few take hardly
            longer than one, since a layer's weights are read once for all of them; many do not.
        most_bytes: largest size of a batch's prompt states; the cache of answers is not counted.
        to_come: thresholds of later runs, in their order; these runs differ in nothing else.
    """

    tokens_at_once: int = TOKENS_AT_ONCE
    most_bytes: int = 0
    to_come: Sequence[float] = ()
    _answers: dict[tuple[Hashable, float], list[Any]] = field(default_factory=dict, repr=False)

    def together(self, threshold: float, tokens: int, size: int) -> tuple[float, ...]:
        """``threshold``, and those of later runs that are run at the same time.

        Args:
            threshold: of this run.
            tokens: of a pass under one threshold, at least 1.
            size: bytes of the prompt states under one threshold.
        """
        at_once = min(self.tokens_at_once // tokens, self.most_bytes // max(1, size))
        every = dict.fromkeys((threshold, *self.to_come))
        return tuple(every)[: max(1, at_once)]

    def take(self, key: Hashable, threshold: float) -> list[Any] | None:
        """The answers under ``threshold`` from an earlier run, removed from the store."""
        return self._answers.pop((key, threshold), None)

    def keep(self, key: Hashable, thresholds: Sequence[float], answers: Sequence[Any]) -> list[Any]:
        """Keep the answers under all thresholds but the first, whose are returned.

        Args:
            key: identifies the requests and all that changes their answers except the threshold.
            thresholds: of the rows.
            answers: equally many of each threshold, one threshold after the other.
        """
        count = len(answers) // len(thresholds)
        parts = [list(answers[at : at + count]) for at in range(0, len(answers), count)]
        for threshold, part in zip(thresholds[1:], parts[1:], strict=True):
            self._answers[key, threshold] = part
        return parts[0]
