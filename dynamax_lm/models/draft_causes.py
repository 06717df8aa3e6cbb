"""Why a lossless run was slower than full depth: the one cause without which it gains the most.

Each cause has a factor by which the run would be faster without it. That of the passes is the bound
of the run's own counts over the measured speed: what the passes took longer than counted. For every
other cause it is the bound of changed counts or costs over the run's bound:

- acceptance: every drafted token is accepted;
- vocabulary: exit checks are free;
- depth: the exit is after a quarter of the layers, at the same acceptance;
- length: each draft has the best of all longer lengths, at the run's acceptance of each token.

A bound below 1 explains the loss without the passes, which are then not a cause.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from dynamax_lm.engine.draft_costs import DraftCosts, RoundCounts
from dynamax_lm.engine.draft_length import LONGEST


class Cause(Enum):
    """A cause; its value is part of a sentence."""

    ACCEPTANCE = "too few drafted tokens are accepted"
    VOCABULARY = "the vocabulary checks cost too much"
    DEPTH = "the exit that drafts is too deep"
    LENGTH = "drafts are too short"
    BATCH = "the batch makes verification passes long"
    PASSES = "passes take longer than their FLOPs"


class LosslessRun(NamedTuple):
    """Numbers of a run.

    Attributes:
        counts: of its rounds, at least one.
        costs: of a round.
        exit_layer: layers run by a draft, 1..L-1.
        n_layers: L.
        rows: mean number of rows in a batch, at least 1.
        speed: measured, over full depth's.
    """

    counts: RoundCounts
    costs: DraftCosts
    exit_layer: int
    n_layers: int
    rows: float
    speed: float

    @property
    def bound(self) -> float:
        """The speed over full depth's if passes took as long as counted."""
        return self.counts.bound(self.costs)

    @property
    def shallow(self) -> int:
        """A quarter of the layers, if this is less than the exit's."""
        return min(self.exit_layer, max(1, self.n_layers // 4))

    def without(self) -> dict[Cause, float]:
        """The bound without each cause but those of the passes."""
        counts, costs = self.counts, self.costs
        moved = costs.draft * (1 - self.shallow / self.exit_layer)
        higher = costs._replace(draft=costs.draft - moved, verify=costs.verify + moved)
        return {
            Cause.ACCEPTANCE: counts._replace(tokens=counts.inputs).bound(costs),
            Cause.VOCABULARY: counts.bound(costs._replace(check=0.0)),
            Cause.DEPTH: counts.bound(higher),
            Cause.LENGTH: _with_longer_drafts(counts, costs),
        }

    def cause(self) -> Cause:
        """The cause without which the run would gain the most."""
        bound = self.bound
        factors = {cause: better / bound for cause, better in self.without().items()}
        if bound >= 1:
            many = self.rows > 1 and self.speed >= self.counts.unshared(self.costs)
            factors[Cause.BATCH if many else Cause.PASSES] = bound / self.speed
        return max(factors, key=factors.__getitem__)

    def explain(self) -> str:
        """The cause, the numbers that show it, and the bound with and without it."""
        cause, counts, costs = self.cause(), self.counts, self.costs
        bound = f"the bound from counts is {self.bound:.2f}"
        if better := self.without().get(cause):
            bound += f", and {better:.2f} "
        if cause is Cause.ACCEPTANCE:
            numbers = f"{counts.accepted} of {counts.drafted} are"
            bound += "if all were"
        elif cause is Cause.VOCABULARY:
            layers = costs.check * self.exit_layer / costs.draft
            each = counts.checks / counts.tokens
            numbers = f"each as much as {layers:.1f} layers, {each:.1f} for each token emitted"
            bound += "if they were free"
        elif cause is Cause.DEPTH:
            numbers = f"after {self.exit_layer} of {self.n_layers} layers"
            bound += f"after {self.shallow} layers with the same acceptance"
        elif cause is Cause.LENGTH:
            ended = counts.checks - counts.drafted
            numbers = (
                f"{counts.drafted} tokens in {counts.rounds} drafts, "
                f"{ended} of which ended at a confidence below the threshold"
            )
            bound += "with longer ones of the same acceptance"
        else:
            tokens = self.rows * counts.inputs / counts.rounds
            numbers = f"a pass verifies {tokens:.1f} tokens of {self.rows:.0f} rows"
        return f"{cause.value} ({numbers}); {bound}"


def _with_longer_drafts(counts: RoundCounts, costs: DraftCosts) -> float:
    """The largest bound of drafts that all have one length, longer than the run's mean."""
    judged = counts.accepted + counts.rejecting
    chance = counts.accepted / judged if judged else 1.0
    shortest = counts.drafted // counts.rounds + 1
    bounds = [counts.bound(costs)]
    for length in range(shortest, LONGEST + 1):
        tokens = sum(chance**step for step in range(length + 1))
        drafts = (length + 1) * costs.draft + length * costs.check
        bounds.append(tokens / (drafts + costs.verify))
    return max(bounds)
