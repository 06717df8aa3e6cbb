"""Required numbers of independent units for a risk bound, computed before anything is run."""

from __future__ import annotations

import math

import numpy as np

from dynamax_lm.common.risk_tests import PValue

_MOST = 10_000_000
"""Beyond so many documents the number that any test needs is given."""

_BEYOND_COUNTING = 10**15


def needed_by_any_test(risk: float, delta: float) -> int:
    """The least n at which n documents without a loss can certify ``risk`` at ``delta``.

    If losses of 1 occur with probability ``risk``, n documents have none with probability
    ``(1 - risk) ** n``; while that exceeds ``delta``, no valid test can reject.

    Returns:
        The smallest n with ``(1 - risk) ** n <= delta``: 59 for 0.05 at 0.05.
    """
    least = math.log(delta) / math.log1p(-risk)
    if least > _BEYOND_COUNTING:
        return _BEYOND_COUNTING
    n = math.ceil(least)
    return n - 1 if n > 1 and (1 - risk) ** (n - 1) <= delta else max(n, 1)


def needed_without_loss(p_value: PValue, risk: float, delta: float) -> int:
    """The least n at which this test certifies n documents without a loss.

    Where any test needs more than ten million, that number is returned.

    Args:
        p_value: one of `statistics`.
        risk: in (0, 1).
        delta: in (0, 1).
    """

    def enough(n: int) -> bool:
        return p_value(np.zeros(n), risk, delta) <= delta

    least = needed_by_any_test(risk, delta)
    if least > _MOST:
        return least
    most = least
    while not enough(most):
        if most > _MOST:
            return most
        most *= 2
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return least
