"""Counts of drafted and accepted tokens of lossless answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dynamax_lm.core.trace import AnswerTrace, DraftRound


class Drafts(NamedTuple):
    """Counts of drafted tokens and their verification; zeros where none were drafted.

    Attributes:
        rounds: drafts verified.
        drafted: tokens that exits emitted.
        accepted: those that are full depth's.
        inputs: tokens that ran all layers.
        tokens: tokens of the answers.
    """

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    inputs: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, traces: Iterable[AnswerTrace]) -> Drafts:
        """The counts of all lossless answers among ``traces``."""
        lossless = [trace for trace in traces if trace.rounds is not None]
        return cls.counted((len(trace), trace.rounds or ()) for trace in lossless)

    @classmethod
    def counted(cls, answers: Iterable[tuple[int, Sequence[DraftRound]]]) -> Drafts:
        """The counts of answers, each given as its tokens and its rounds."""
        pairs = list(answers)
        rounds = [one for _, some in pairs for one in some]
        return cls(
            rounds=len(rounds),
            drafted=sum(len(one.drafted) for one in rounds),
            accepted=sum(one.accepted for one in rounds),
            inputs=sum(one.inputs for one in rounds),
            tokens=sum(tokens for tokens, _ in pairs),
        )

    @property
    def acceptance_rate(self) -> float | None:
        """Share of drafted tokens that are accepted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def accepted_length(self) -> float | None:
        """Mean number of accepted tokens in a draft."""
        return self.accepted / self.rounds if self.rounds else None

    @property
    def passes_per_token(self) -> float | None:
        """Full-depth runs per token of the answers, rejected tokens included."""
        return self.inputs / self.tokens if self.tokens else None

    def pooled(self, other: Drafts) -> Drafts:
        """Both counts."""
        return Drafts(*(a + b for a, b in zip(self, other, strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Counts and rates, as JSON values."""
        return {
            **self._asdict(),
            "acceptance_rate": self.acceptance_rate,
            "accepted_length": self.accepted_length,
            "passes_per_token": self.passes_per_token,
        }
