"""The interval of a mean over documents, by the bootstrap, or none where there are too few.

Owns how documents are resampled and how many it takes. It does not know what the values are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 6
"""Of five values the whole range from least to greatest holds the middle of their distribution in
15 of 16 cases, short of 95 %; an interval inside that range would claim what they cannot say."""


def mean_interval(
    values: Sequence[float] | npt.NDArray[np.float64], *, level: float = LEVEL, seed: int = 0
) -> tuple[float, float] | None:
    """The percentile interval of the mean of per-document ``values``.

    Args:
        values: one a document.
        level: its coverage, in (0, 1); for fewer than about twenty documents it covers less.
        seed: of the resampling.

    Returns:
        Its ends; ``None`` for fewer than ``FEWEST`` values.
    """
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    if len(array) < FEWEST:
        return None
    if not np.ptp(array):  # nothing to resample
        return float(array[0]), float(array[0])
    ends = stats.bootstrap(
        (array,),
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(ends.low), float(ends.high)
