"""Counts of requests by how their answers were computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Origins:
    """Numbers of requests, by how they were answered.

    Attributes:
        derived: entirely from a full-depth pass.
        partly: from one up to the first disagreement, and decoded from there.
        rows: run together with other thresholds, as rows of one batch.
        run: on their own.
    """

    derived: int = 0
    partly: int = 0
    rows: int = 0
    run: int = 0

    def ran(self, requests: int, thresholds: int) -> None:
        """Count requests that were run under one or several thresholds at once."""
        if thresholds > 1:
            self.rows += requests
        else:
            self.run += requests
