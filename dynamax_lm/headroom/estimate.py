"""A mean over documents with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from dynamax_lm.common.intervals import Bounds, Floats, mean_interval
from dynamax_lm.common.passages import Units


@dataclass(frozen=True)
class Estimate:
    """A mean over documents with its 95 % interval, valid for any number of independent units.

    Attributes:
        value: the mean.
        low: lower end; ``None`` where units are too few for an interval.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None

    def as_percent(self) -> str:
        """The mean with its interval, in percent."""
        if self.low is None or self.high is None:
            return f"{self.value:.1%}"
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def estimate(values: Floats, bounds: Bounds, units: Units | None = None) -> Estimate:
    """The mean of per-document ``values``, all within ``bounds``, and its interval.

    Args:
        values: (documents,).
        bounds: of every value by definition.
        units: of the documents; ``None`` if each is its own.
    """
    if units is None:
        low, high = mean_interval(values, bounds) or (None, None)
    else:
        low, high = mean_interval(units.values(values), units.bounds(bounds)) or (None, None)
    return Estimate(float(values.mean()), low, high)
