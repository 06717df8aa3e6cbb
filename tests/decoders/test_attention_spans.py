"""Attending to several rows in one call over a masked copy equals a call for each row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders import attention_context
from dynamax_lm.engine.prefill import prefill
from tests.builders import STACKS, prompts, random_model

pytestmark = pytest.mark.usefixtures("no_gradients")


@settings(max_examples=20, deadline=None)
@given(rows=prompts(), window=st.sampled_from([None, 3]), data=st.data())
def test_one_call_equals_a_call_for_each_row(
    rows: list[tuple[int, ...]], window: int | None, data: st.DataObject
) -> None:
    stack = STACKS["mistral"](random_model("mistral", 2, sliding_window=window))
    subset = st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=len(rows), unique=True)
    steps = data.draw(st.lists(subset, min_size=2, max_size=4))
    found = []
    for limit in (0, attention_context._COPIED):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(attention_context, "_COPIED", limit)
            state = prefill(stack, rows)
            for some in steps:
                token_batch = TokenBatch.of([[5]] * len(some), some, stack.device)
                run = stack.begin(state, token_batch, "propagate")
                hidden = stack.embed(run)
                for layer in range(stack.n_layers):
                    hidden = stack.layer(layer, hidden, run)
                stack.end(state, run)
                found.append(hidden)
    for each, together in zip(found[: len(steps)], found[len(steps) :], strict=True):
        torch.testing.assert_close(each, together, rtol=1e-5, atol=1e-5)
