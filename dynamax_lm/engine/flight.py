"""How many rows are generated at a time: rows of a step, and rows in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.state_size import tensor_bytes
from dynamax_lm.engine.stateful_stack import StatefulStack

IN_FLIGHT = 4
"""Rows in flight for each row of a step, with exits."""


@dataclass
class Flight:
    """Limits of continuous batching.

    Attributes:
        batch_size: largest number of rows in a step, and of prompts in a prefill; at least 1.
        rows: rows with a state at a time; ``batch_size`` if that is more. By default ``batch_size``
            times ``IN_FLIGHT`` with exits, and ``batch_size`` without.
        state_bytes: the default number of rows is smaller where their states would take more memory
            than this; ``None`` for no limit.
        used: the largest number of rows so far.
    """

    batch_size: int
    rows: int | None = None
    state_bytes: int | None = None
    used: int = 0

    def rows_of_a_batch(self, requests: int) -> int:
        """As many rows in flight as in a step, at most one for each of ``requests``."""
        count = min(self.batch_size, requests)
        self.used = max(self.used, count)
        return count

    def rows_for(
        self,
        stack: StatefulStack,
        state: Any,
        first: Sequence[GenerateRequest],
        policy: ExitPolicy,
        requests: Sequence[GenerateRequest],
    ) -> int:
        """Rows in flight, at most as many as there are ``requests``.

        Args:
            stack: the decoder.
            state: of the prompts of ``first``.
            first: some of the requests.
            policy: when a token exits.
            requests: all of them.
        """
        if self.rows is not None:
            count = max(self.rows, self.batch_size)
        else:
            count = self.batch_size * (IN_FLIGHT if policy.exit_layers else 1)
            if self.state_bytes is not None:
                row = _row_bytes(stack, state, first, requests) * (2 if policy.needs_target else 1)
                count = min(count, max(self.batch_size, self.state_bytes // row))
        count = min(count, len(requests))
        self.used = max(self.used, count)
        return count


def _row_bytes(
    stack: StatefulStack,
    state: Any,
    first: Sequence[GenerateRequest],
    requests: Sequence[GenerateRequest],
) -> int:
    """Bytes of the largest state at the end of an answer: a part that grows with it, and one not.

    ``state`` is that of the prompts of ``first``.
    """
    prompt = max(1, max(len(one.prompt) for one in first) - 1)
    whole = max(len(one.prompt) - 1 + one.max_new for one in requests)
    fixed = tensor_bytes(stack.new_state(1))
    grown = max(0, tensor_bytes(state) // len(first) - fixed)
    return max(1, fixed + grown * whole // prompt)
