"""Costs of lossless rounds as fractions of a full-depth step, and the speed that they bound.

Costs are counted in FLOPs of one token, to which the weights that a pass reads are proportional.
Times are not measured here: drafts that depended on them would depend on the machine's load.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.trace import DraftRound

_TOKEN = 0.1
"""Time that a further token adds to a verification pass, as a fraction of the pass."""


class DraftCosts(NamedTuple):
    """Costs of a round, as fractions of a full-depth step.

    Attributes:
        draft: of a token in the layers below the exit.
        check: of a draft at the exit.
        verify: of one token in the layers above, with the final projection.
    """

    draft: float
    check: float
    verify: float

    @classmethod
    def of(cls, costs: DecoderCosts, policy: ExitPolicy) -> DraftCosts:
        """The costs of drafts by the one exit of ``policy``, without those of trained modules."""
        (depth,) = policy.exit_layers
        ledger = Ledger(costs, exit_layers=[depth], confidence=policy.confidence)
        return cls.billed(ledger, depth)

    @classmethod
    def billed(cls, ledger: Ledger, depth: int) -> DraftCosts:
        """The costs of drafts after ``depth`` layers, as ``ledger`` bills them."""
        one = ledger.lossless(0, [DraftRound(0, 1, (0,), (depth,), 1)], 1)
        parts = (one.layers, one.checks + one.projection, one.verification)
        return cls(*(part / one.full_depth for part in parts))

    def round(self, inputs: int, checks: int) -> float:
        """The cost of a round with ``inputs`` tokens, at least 1."""
        verification = self.verify * (1 + _TOKEN * (inputs - 1))
        return inputs * self.draft + checks * self.check + verification


class RoundCounts(NamedTuple):
    """Counts of lossless rounds.

    Attributes:
        rounds: drafts verified.
        tokens: tokens of the answers.
        inputs: tokens that ran all layers.
        checks: exit checks.
        drafted: tokens that the exit emitted.
        accepted: those that are full depth's.
        rejecting: rounds in which a drafted token was rejected.
    """

    rounds: int
    tokens: int
    inputs: int
    checks: int
    drafted: int
    accepted: int
    rejecting: int

    @classmethod
    def of(cls, rounds: Iterable[DraftRound]) -> RoundCounts:
        """The counts of ``rounds``."""
        some = list(rounds)
        return cls(
            rounds=len(some),
            tokens=sum(one.tokens for one in some),
            inputs=sum(one.inputs for one in some),
            checks=sum(one.checks for one in some),
            drafted=sum(len(one.drafted) for one in some),
            accepted=sum(one.accepted for one in some),
            rejecting=sum(one.accepted < len(one.drafted) for one in some),
        )

    def bound(self, costs: DraftCosts) -> float:
        """Tokens per full-depth step if a pass over many tokens costs as much as over one."""
        return self._speed(costs, self.rounds)

    def unshared(self, costs: DraftCosts) -> float:
        """Tokens per full-depth step if a pass costs as much as one pass for each of its tokens."""
        return self._speed(costs, self.inputs)

    def _speed(self, costs: DraftCosts, passes: int) -> float:
        drafts = self.inputs * costs.draft + self.checks * costs.check
        return self.tokens / (drafts + passes * costs.verify)
