"""A plain-language verdict by stated rules and two limits (docs/headroom.md, "The verdict")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynamax_lm.common.intervals import FEWEST
from dynamax_lm.headroom.estimate import Estimate
from dynamax_lm.headroom.measure import Headroom, LayerNumbers

WORTHWHILE = 0.05
"""The default of the least net saving that is worth training for, as a share of FLOPs."""

BALANCED = 0.10
"""The least share of the rarer label, on average over exits, for unweighted training."""

Level = Literal["worth trying", "only with cheap checks", "not worth it", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """A verdict.

    Attributes:
        level: in one word.
        reason: with numbers.
        labels: which labels to train on, and their consequences.
        limits: limitations of the verdict.
    """

    level: Level
    reason: str
    labels: str
    limits: str


def judge(found: Headroom, worthwhile: float = WORTHWHILE) -> Verdict:
    """The verdict on one task or the pool.

    Args:
        found: its numbers.
        worthwhile: the least net saving, as a share of full depth's FLOPs.
    """
    free, checked = found.free.saved, found.checked.saved
    bar = f"{worthwhile:.0%}"
    perfect = f"an oracle policy with free confidence checks saves {free.as_percent()} net"
    exits = ", ".join(map(str, found.checked.exits))
    looks = (
        f"with a vocabulary check at each of the exits {exits} it saves {checked.as_percent()}"
        if exits
        else "no exit saves what a vocabulary check at it costs"
    )
    under = f", below the criterion of {bar}" if exits else ""
    if found.texts.mostly_empty:
        level: Level = "undecided"
        reason = (
            f"{found.texts.empty} of {found.texts.answers} answers are empty: too few "
            f"remain; give examples (--num_fewshot) or --apply_chat_template"
        )
    elif None in (free.low, free.high):
        level = "undecided"
        passages = found.units < found.documents
        what = "passage" if passages else "document"
        few = f"{found.units} {what}" + ("s are" if found.units > 1 else " is")
        reason = f"{perfect}, but {few} too few for an interval; give at least {FEWEST}"
    elif _below(free, worthwhile):
        level, reason = "not worth it", f"even {perfect}, below the criterion of {bar}"
    elif _reaches(free, worthwhile) and _below(checked, worthwhile):
        level = "only with cheap checks"
        reason = (
            f"{perfect}, but {looks}{under}: a trained classifier that reads the "
            f"hidden state may pay, a vocabulary check cannot"
        )
    elif _reaches(checked, worthwhile):
        level, reason = "worth trying", f"{perfect}, and {looks}, above the criterion of {bar}"
    else:
        level = "undecided"
        reason = (
            f"{perfect}, and {looks}: an interval contains the criterion of {bar}; give more "
            f"documents"
        )
    return Verdict(level, reason, labels_advice(found.layers), _LIMITS)


_LIMITS = (
    "An upper bound for untrained exits (the model's own norm and vocabulary at every layer) and "
    "exact states: real policies err, skipped layers' state is approximate, and only a translator "
    "trained for an exit can raise it."
)


def rarer_share(layers: tuple[LayerNumbers, ...], k: int) -> float:
    """The rarer label's share of tokens, on average over the exits."""
    shares = [min(one.positive[k], 1.0 - one.positive[k]) for one in layers]
    return sum(shares) / len(shares)


def labels_advice(layers: tuple[LayerNumbers, ...]) -> str:
    """A line on the smallest k whose labels are balanced enough, and its consequences."""
    ks = sorted(layers[0].positive)
    strict = rarer_share(layers, ks[0])
    k = next((k for k in ks if rarer_share(layers, k) >= BALANCED), None)
    if k == ks[0]:
        return f"strict labels do: the rarer one has {strict:.0%} of the tokens"
    if k is None:
        best = max(ks, key=lambda one: rarer_share(layers, one))
        most = rarer_share(layers, best)
        return (
            f"no label is balanced: the rarer one has {strict:.0%} of the tokens under strict "
            f"labels and at most {most:.0%} (k = {best}), under {BALANCED:.0%}; weight the classes"
        )
    positive = sum(one.positive[k] for one in layers)
    agreeing = sum(one.positive[ks[0]] for one in layers)
    wrong = 1.0 - agreeing / positive if positive else 0.0
    return (
        f"strict labels give the rarer one {strict:.0%} of the tokens; k = {k} gives it "
        f"{rarer_share(layers, k):.0%}, but {wrong:.0%} of the tokens that it calls right are not "
        f"full depth's"
    )


def _below(found: Estimate, bar: float) -> bool:
    return found.high is not None and found.high < bar


def _reaches(found: Estimate, bar: float) -> bool:
    return found.low is not None and found.low >= bar
