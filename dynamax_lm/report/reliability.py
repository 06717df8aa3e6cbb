"""How far a confidence can be believed: bins of it against agreement with full depth.

Owns the binning. Only tokens of the text that left early are counted: at full depth a token agrees
with itself, and a stop that every layer predicts would make any confidence look right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scipy import stats

from dynamax_lm.common.tracefile import TraceLine

BINS = 10


class Bin(NamedTuple):
    """Tokens of like confidence.

    Attributes:
        confidence: their mean, in [0, 1].
        agreement: share of them equal to full depth's.
        low: lower end of the share's 95 % Wilson interval.
        high: upper end.
        tokens: how many.
    """

    confidence: float
    agreement: float
    low: float
    high: float
    tokens: int


class Curve(NamedTuple):
    """One setting's bins, by rising confidence."""

    label: str
    bins: list[Bin]


def reliability_curve(label: str, lines: Iterable[TraceLine], layers: int) -> Curve:
    """The bins of one trace.

    Args:
        label: the setting.
        lines: its tokens.
        layers: L; tokens that used as many are left out.
    """
    binned: dict[int, list[tuple[float, bool]]] = {}
    for line in lines:
        left_early = line.is_text and line.layers_used < layers and line.full_depth is not None
        if left_early and line.confidence is not None:
            number = min(BINS - 1, int(line.confidence * BINS))
            binned.setdefault(number, []).append((line.confidence, line.emitted == line.full_depth))
    return Curve(label, [_bin(members) for _, members in sorted(binned.items())])


def _bin(members: list[tuple[float, bool]]) -> Bin:
    agreeing, tokens = sum(agrees for _, agrees in members), len(members)
    interval = stats.binomtest(agreeing, tokens).proportion_ci(method="wilson")
    return Bin(
        confidence=sum(confidence for confidence, _ in members) / tokens,
        agreement=agreeing / tokens,
        low=float(interval.low),
        high=float(interval.high),
        tokens=tokens,
    )
