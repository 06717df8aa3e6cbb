"""How many tokens a row drafts before they are verified, and when it pauses.

It knows the costs of rounds as fractions of a full-depth step, and no decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamax_lm.engine.draft_costs import DraftCosts

AUTO = 0
"""A draft length that adapts to the number of accepted tokens."""

_FIRST, LONGEST = 4, 32
_EVIDENCE = 4
"""Rounds after which drafts are judged by their costs."""
_PAUSE = 16
"""Tokens of the first pause; each further one is twice as long."""


@dataclass
class DraftLength:
    """How many tokens a row drafts before they are verified.

    ``AUTO`` grows by two where a whole draft was accepted and shrinks by one where it was not, as
    transformers' assisted generation does. Where the rounds so far cost more than full depth would
    have, it pauses: the row runs at full depth for some tokens, without drafts and checks.

    Args:
        fixed: at least 1, or ``AUTO``.
        costs: of a round; without them ``AUTO`` never pauses.
    """

    fixed: int = AUTO
    costs: DraftCosts | None = None
    now: int = field(init=False)
    _rounds: int = field(default=0, init=False)
    _balance: float = field(default=0.0, init=False)
    _pauses: int = field(default=0, init=False)
    _paused: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.now = self.fixed or _FIRST

    def verified(self, drafted: int, accepted: int, *, inputs: int = 0, checks: int = 0) -> None:
        """Adapt to one round.

        Args:
            drafted: tokens of the draft.
            accepted: those that are full depth's.
            inputs: tokens that ran.
            checks: exit checks made.
        """
        if self.fixed:
            return
        if self._paused:
            self._paused -= 1
            self.now = 0 if self._paused else 1
            return
        if accepted < drafted:
            self.now = max(1, self.now - 1)
        elif drafted >= self.now:
            self.now = min(LONGEST, self.now + 2)
        if self.costs is not None:
            self._judge(min(accepted + 1, inputs) - self.costs.round(inputs, checks))

    def _judge(self, gain: float) -> None:
        """Pause if the rounds since the last pause have cost more than the tokens they gave."""
        self._rounds += 1
        self._balance += gain
        if self._rounds >= _EVIDENCE and self._balance < 0:
            self._paused = _PAUSE << self._pauses
            self._rounds, self._balance, self._pauses, self.now = 0, 0.0, self._pauses + 1, 0
