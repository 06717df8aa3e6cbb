"""Reliability of a confidence: agreement with full depth by bin, with intervals.

Only tokens of the text that exited early count: at full depth a token agrees with itself, and the
stop sequence, which most layers predict, would raise every bin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dynamax_lm.common.clustered_share import clustered_share
from dynamax_lm.common.reliability import parts, reliability
from dynamax_lm.common.tracefile import TraceLine


class Share(NamedTuple):
    """A bin's agreement with full depth.

    Attributes:
        confidence: mean of its tokens', in [0, 1].
        agreement: share of them equal to full depth's.
        low: lower end of the share's 95 % interval over documents.
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
    early = [
        line
        for line in lines
        if line.is_text and line.layers_used < layers and line.full_depth is not None
        if line.confidence is not None
    ]
    confidence = np.array([line.confidence for line in early], dtype=np.float64)
    agrees = np.array([line.emitted == line.full_depth for line in early], dtype=np.bool_)
    numbers: dict[tuple[str, int], int] = {}
    document = np.array(
        [numbers.setdefault((line.task, line.doc_id), len(numbers)) for line in early],
        dtype=np.int64,
    )
    part = parts(confidence)
    shares = []
    for number, one in zip(np.unique(part), reliability(confidence, agrees), strict=True):
        interval = clustered_share(agrees[part == number], document[part == number])
        shares.append(Share(one.confidence, one.right, *interval, one.tokens))
    return Curve(label, shares)
