"""A stack run layer by layer is transformers' own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.stack import TokenBatch
from tests.builders import STACKS, Shape, prompts, random_model, shapes
from tests.decoders.transformers_own import transformers_own
from tests.stacks import Keep


def layer_by_layer(model: Any, kind: str, rows: list[tuple[int, ...]]) -> Tensor:
    """(B, T, V) logits through the stack with transformers' kernels, pads on the left."""
    with transformers_own():
        stack: Any = STACKS[kind](model)
    token_batch = TokenBatch.of(rows, range(len(rows)), stack.device, prefill=True)
    kept = Keep(token_batch.ids.numel())
    run_token_batch(stack, stack.new_state(len(rows)), token_batch, kept)
    return kept.logits.unflatten(0, token_batch.ids.shape)


def through_transformers(model: Any, kind: str, rows: list[tuple[int, ...]]) -> tuple[Any, Any]:
    """(B, T, V) logits of the model's own forward, and the mask of real tokens."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    options = {}
    if kind != "mamba2":  # as generate() does: positions count real tokens only
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    return logits, mask.bool()


@settings(max_examples=40)
@given(shape=shapes(), rows=prompts(longest=20))
def test_forward_is_exactly_transformers_own(shape: Shape, rows: list[tuple[int, ...]]) -> None:
    model = shape.model()
    with torch.no_grad():
        expected, real = through_transformers(model, shape.kind, rows)
        ours = layer_by_layer(model, shape.kind, rows)
    assert torch.equal(ours[real], expected[real])


@pytest.mark.parametrize("kind", ["mistral", "llama", "mamba2"])
def test_forward_is_exact_in_bfloat16(kind: str) -> None:
    model = random_model(kind, dtype=torch.bfloat16)
    rows = [tuple(range(1, 18)), tuple(range(5, 12))]
    with torch.no_grad():
        expected, real = through_transformers(model, kind, rows)
        ours = layer_by_layer(model, kind, rows)
    assert torch.equal(ours[real], expected[real].float())


@settings(max_examples=40)
@given(shape=shapes(), rows=prompts(longest=12), data=st.data())
def test_token_by_token_and_in_pieces_equal_one_forward(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """Any cutting of the rest into uneven pieces leaves the same logits as one forward."""
    model = shape.model()
    stack = STACKS[shape.kind](model)
    heads = [row[: data.draw(st.integers(0, len(row) - 1))] for row in rows]
    with torch.no_grad():
        state = stack.new_state(len(rows))
        if any(heads):
            body = TokenBatch.of(heads, range(len(rows)), stack.device, prefill=True)
            run_token_batch(stack, state, body, None)
        rest = {row: list(rows[row][len(heads[row]) :]) for row in range(len(rows))}
        while active := [row for row in rest if rest[row]]:
            pieces = [rest[row][: data.draw(st.integers(1, len(rest[row])))] for row in active]
            kept = Keep(sum(map(len, pieces)))
            run_token_batch(stack, state, TokenBatch.of(pieces, active, stack.device), kept)
            last = torch.tensor([len(piece) for piece in pieces]).cumsum(0) - 1
            for row, piece, place in zip(active, pieces, last.tolist(), strict=True):
                rest[row] = rest[row][len(piece) :]
                if not rest[row]:
                    alone, _ = through_transformers(model, shape.kind, [rows[row]])
                    torch.testing.assert_close(
                        kept.logits[place], alone[0, -1], rtol=1e-4, atol=1e-4
                    )


@settings(max_examples=20)
@given(shape=shapes(), rows=prompts(min_rows=2, longest=8))
def test_rewinding_forgets_and_taking_copies(shape: Shape, rows: list[tuple[int, ...]]) -> None:
    model = shape.model()
    stack = STACKS[shape.kind](model)
    with torch.no_grad():
        state = stack.new_state(len(rows))
        run_token_batch(
            stack, state, TokenBatch.of(rows, range(len(rows)), stack.device, prefill=True), None
        )
        mark = stack.mark(state)
        token_batch = TokenBatch.of([(3, 4)] * len(rows), range(len(rows)), stack.device)
        first, again, other = Keep(2 * len(rows)), Keep(2 * len(rows)), Keep(2)
        run_token_batch(stack, state, token_batch, first)
        stack.rewind(state, mark)
        copied = stack.take(state, [len(rows) - 1])
        run_token_batch(stack, state, token_batch, again)
        run_token_batch(stack, copied, TokenBatch.of([(3, 4)], [0], stack.device), other)
    assert torch.equal(first.logits, again.logits)
    torch.testing.assert_close(other.logits, again.logits[-2:], rtol=1e-4, atol=1e-5)
