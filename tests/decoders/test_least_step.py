"""A least step size above 0, which empty slots do not take."""

from __future__ import annotations

import pytest
import torch

from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.engine.prefill import prefill
from tests.decoders.tiny_families import tiny_model
from tests.decoders.transformers_own import transformers_own

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_rows_without_tokens_do_not_step_under_transformers_kernels() -> None:
    """A least step size above 0 (Nemotron-H) is no step of the empty slots beside a longer row."""
    model = tiny_model("nemotron_h", seed=5, time_step_min=0.1)
    rows = [(3, 4, 5, 6), (7, 8, 9, 10)]
    with transformers_own():
        stack = FamilyStack(model)
    together, alone = prefill(stack, rows), prefill(stack, rows[1:])
    longer = TokenBatch.of([tuple(range(11, 23)), (11,)], range(2), stack.device)
    run_token_batch(stack, together, longer, None)
    run_token_batch(stack, alone, TokenBatch.of([(11,)], [0], stack.device), None)
    ours, theirs = stack.take(together, [1]), alone
    pairs = zip(ours.layers, theirs.layers, strict=True)
    states = [(a.ssm, b.ssm) for a, b in pairs if hasattr(a, "ssm")]
    assert states
    for a, b in states:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
