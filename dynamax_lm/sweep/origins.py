"""How answers came about, counted in requests.

Owns the count. It does not know how answers are made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Origins:
    """How many requests were answered in which way.

    Attributes:
        derived: wholly from a full-depth pass.
        partly: from one up to a first disagreement, and run from there.
        rows: run together with other thresholds, as rows of one batch.
        run: otherwise.
    """

    derived: int = 0
    partly: int = 0
    rows: int = 0
    run: int = 0

    def ran(self, requests: int, thresholds: int) -> None:
        """Count requests that were run under so many thresholds at once."""
        if thresholds > 1:
            self.rows += requests
        else:
            self.run += requests
