"""Reliability of a confidence: agreement with full depth by bin, with intervals.

Only tokens of the text that exited early count: at full depth a token agrees with itself, and the
stop sequence, which most layers predict, would raise every bin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats

from dynamax_lm.common.reliability import Bin, reliability
from dynamax_lm.common.tracefile import TraceLine


class Share(NamedTuple):
    """A bin's agreement with full depth.

    Attributes:
        confidence: mean of its tokens', in [0, 1].
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
    """One setting's bins, by increasing confidence."""

    label: str
    bins: list[Share]


def reliability_curve(label: str, lines: Iterable[TraceLine], layers: int) -> Curve:
    """The bins of one trace.

    Args:
        label: the setting.
        lines: its tokens.
        layers: L; tokens that used as many are excluded.
    """
    pairs = [
        (line.confidence, line.emitted == line.full_depth)
        for line in lines
        if line.is_text and line.layers_used < layers and line.full_depth is not None
        if line.confidence is not None
    ]
    confidence = np.array([one for one, _ in pairs], dtype=np.float64)
    table = reliability(confidence, np.array([agrees for _, agrees in pairs], dtype=np.bool_))
    return Curve(label, [_share(one) for one in table])


def _share(one: Bin) -> Share:
    agreeing = round(one.right * one.tokens)
    interval = stats.binomtest(agreeing, one.tokens).proportion_ci(method="wilson")
    return Share(
        confidence=one.confidence,
        agreement=one.right,
        low=float(interval.low),
        high=float(interval.high),
        tokens=one.tokens,
    )
