"""Required numbers of independent units for a risk bound, computed before anything is run."""

from __future__ import annotations

import math

import numpy as np

from dynamax_lm.common.risk_tests import PValue


def needed_by_any_test(risk: float, delta: float) -> int:
    """The least n at which n documents without a loss can certify ``risk`` at ``delta``.

    If losses of 1 occur with probability ``risk``, n documents have none with probability
    ``(1 - risk) ** n``; while that exceeds ``delta``, no valid test can reject.

    Returns:
        The smallest n with ``(1 - risk) ** n <= delta``: 59 for 0.05 at 0.05.
    """
    n = math.ceil(math.log(delta) / math.log1p(-risk))
    return n - 1 if n > 1 and (1 - risk) ** (n - 1) <= delta else max(n, 1)


def needed_without_loss(p_value: PValue, risk: float, delta: float) -> int:
    """The least n at which this test certifies n documents without a loss.

    Args:
        p_value: one of `statistics`.
        risk: in (0, 1).
        delta: in (0, 1).
    """

    def enough(n: int) -> bool:
        return p_value(np.zeros(n), risk, delta) <= delta

    least = needed_by_any_test(risk, delta)
    most = least
    while not enough(most):
        most *= 2
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return least
