"""Bounds on logged log-likelihoods from the exits' confidences.

Under ``top_prob`` and ``margin`` the confidence of a token that exited early bounds the probability
of the scored token; a token that ran every layer has no bound.

For p the largest probability and q any other: under ``top_prob`` c = p, so that q <= min(c, 1 - c);
under ``margin`` c = p - (second largest), so that c <= p <= (1 + c) / 2 and q <= (1 - c) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.runs import Sample

_SLACK = 1e-3
"""Tolerance per token, in nats: sums may be in the model's own number format."""

_TINY = 1e-7
"""Below this, one minus a float32 confidence is rounding."""


def check_likelihoods(
    where: str,
    sample: Sample,
    lines: Iterable[TraceLine],
    confidence: str,
    layers: int,
    found: Verification,
) -> None:
    """The log-likelihood of each scored request of a document against its tokens.

    Args:
        where: names the document.
        sample: with its responses.
        lines: the document's rows.
        confidence: name of the measure.
        layers: L.
        found: collects mismatches.
    """
    bounds = _bounds(lines, confidence, layers)
    for index, responses in enumerate(sample.responses):
        for repeat, response in enumerate(responses):
            total = log_likelihood(response)
            if total is None:
                continue
            low, high, tokens = bounds.get((index, repeat), (-math.inf, 0.0, 0))
            slack = _SLACK * max(1, tokens)
            found.require(
                low - slack <= total <= high + slack,
                f"{where} request {index}: log-likelihood {total} is not in "
                f"[{low:.4g}, {high:.4g}], which its confidences allow",
            )


def log_likelihood(response: object) -> float | None:
    """The log-likelihood of a logged response, or ``None`` where it is a text."""
    if isinstance(response, (list, tuple)) and len(response) == 2:
        try:
            return float(response[0])
        except (TypeError, ValueError):
            return math.nan
    return None


def _bounds(
    lines: Iterable[TraceLine], confidence: str, layers: int
) -> Mapping[tuple[int, int], tuple[float, float, int]]:
    """For each request and repeat: the least and the largest sum, and the number of tokens."""
    sums: dict[tuple[int, int], tuple[float, float, int]] = {}
    for line in lines:
        low, high, tokens = sums.get((line.request, line.repeat), (0.0, 0.0, 0))
        least, most = -math.inf, 0.0
        if line.layers_used < layers and line.confidence is not None:
            least, most = _of_token(line.confidence, line.token == line.emitted, confidence)
        sums[line.request, line.repeat] = (low + least, high + most, tokens + 1)
    return sums


def _of_token(confidence: float, likeliest: bool, measure: str) -> tuple[float, float]:
    """The least and the largest log-probability of the scored token."""
    if measure == "top_prob":
        if likeliest:
            return _log(confidence), _log(confidence)
        return -math.inf, _log(min(confidence, 1.0 - confidence))
    if measure == "margin":
        if likeliest:
            return _log(confidence), _log((1.0 + confidence) / 2)
        return -math.inf, _log((1.0 - confidence) / 2)
    return -math.inf, 0.0


def _log(probability: float) -> float:
    return math.log(max(probability, _TINY))
