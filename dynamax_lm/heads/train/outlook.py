"""What a training run says about itself: too little data, and its heads against ``top_prob``."""

from __future__ import annotations

from collections.abc import Sequence

from dynamax_lm.heads.train.evaluate import ExitReport, PolicyReport

CLOSE = 0.95
"""Agreement at which layers are compared."""
_USUAL = 0.9
"""The threshold of runs that name none."""


def too_few(parameters: int, tokens: int, *, classifier: str) -> str:
    """A warning where a run has fewer tokens than parameters; empty otherwise.

    Args:
        parameters: trained ones.
        tokens: different ones that were checked at the exits.
        classifier: the kind that was trained; ``none`` for translators alone.
    """
    fewer = {"none": ", or a smaller --rank of --translator low_rank", "linear": ""}
    if tokens >= parameters:
        return ""
    return (
        f"{parameters:,} parameters were trained on {tokens:,} different tokens, fewer than one "
        "for each parameter: expect heads that fit this text alone; give more --data"
        f"{fewer.get(classifier, ', or a smaller --width, or --head linear')}"
    )


def against_top_prob(
    exits: Sequence[ExitReport], policies: Sequence[PolicyReport], n_layers: int
) -> list[str]:
    """The head's ranking and depth against those of ``top_prob`` at the same exits, in lines.

    Held-out tokens with exact states of earlier tokens; layers, not FLOPs.
    """
    own = sum(one.ranking for one in exits) / len(exits)
    other = sum(one.top_prob_ranking for one in exits) / len(exits)
    lines = [
        f"ranking of right before wrong exits (AUC, mean of {len(exits)} exits): head {own:.3f}, "
        f"top_prob {other:.3f}"
    ]
    ours = [one.layers_used for one in policies if one.agreement >= CLOSE]
    theirs = [one.top_prob_layers_used for one in policies if one.top_prob_agreement >= CLOSE]
    lines.append(
        f"fewest layers at an agreement of at least {CLOSE:.0%}, of {n_layers}: "
        f"head {min(ours, default=n_layers):.2f}, top_prob {min(theirs, default=n_layers):.2f}"
    )
    usual = next(one for one in policies if one.threshold == _USUAL)
    if usual.layers_used > n_layers - 0.05:
        lowest = min(policies, key=lambda one: one.threshold)
        lines.append(
            f"at the default threshold {_USUAL:g} almost nothing exits ({usual.layers_used:.2f} of "
            f"{n_layers} layers; at {lowest.threshold:g}: {lowest.layers_used:.2f}): give a lower "
            "threshold, or find one with python -m dynamax_lm.sweep --thresholds 0.1:0.9:0.1"
        )
    return lines
