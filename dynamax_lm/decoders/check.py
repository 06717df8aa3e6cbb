"""Comparison of a decoder's adapters with transformers' own layers, when a checkpoint loads.

A ``model_type`` in the table says how transformers' layers of that type are described, and a name
is no proof: the lowest layers, one of every kind among them, run a few tokens both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.decoder import Decoder

_PROMPT = 4
_ATTEMPTS = 3
"""Texts of which one must agree: in low precision a router may choose other experts by rounding."""

_MOST = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest relative error by number format; of others, :data:`_MOST_LOW`."""

_MOST_LOW = 0.08


def layers_needed(stack: Decoder) -> int:
    """Number of lowest layers among which every kind of layer is."""
    kinds = [id(layer.kind) for layer in stack.layers]
    return max(kinds.index(kind) for kind in set(kinds)) + 1


def check_layers(model: Any, stack: Any, source: str = "the table of families") -> None:
    """Compare the logits after the lowest layers, for a prompt and one further token.

    Args:
        model: transformers' model, with plain weights.
        stack: its decoder, with the model without its vocabulary head as ``decoder``.
        source: of the description of its layers.

    Raises:
        SettingError: they differ by more than rounding.
    """
    depth = layers_needed(stack)
    most = _MOST.get(stack.decoder.dtype, _MOST_LOW)
    errors = []
    for attempt in range(_ATTEMPTS):
        ids = _tokens(stack.vocab_size, attempt)
        with torch.inference_mode(), truncated(stack.decoder, depth) as short:
            theirs = model(input_ids=ids[None].to(stack.device), use_cache=False).logits[0, -2:]
            ours = _last_logits(stack.with_layers(stack.layers[:depth]), ids.tolist())
            del short
        errors.append(relative_error(ours, theirs))
        if errors[-1] <= most:
            return
    error = min(errors)
    raise SettingError(
        f"model_type {model.config.model_type!r}: the first {depth} layers of this checkpoint "
        f"are not those that {source} describes (relative difference "
        f"{error:.2g}); it cannot be run with early exits"
    )


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Root of the mean squared difference, over that of ``theirs``."""
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    return float((ours - theirs).norm() / theirs.norm())


@contextmanager
def truncated(base: Any, depth: int) -> Iterator[Any]:
    """Inside the block, ``base`` has its ``depth`` lowest layers only."""
    layers, count = base.layers, base.config.num_hidden_layers
    base.layers = nn.ModuleList(list(layers)[:depth])
    base.config.num_hidden_layers = depth
    try:
        yield base
    finally:
        base.layers, base.config.num_hidden_layers = layers, count


def _tokens(vocabulary: int, attempt: int) -> Tensor:
    """Ids spread over the vocabulary, without its first, which are special tokens."""
    first = vocabulary * (1 + attempt) // 7
    return torch.linspace(first, vocabulary - 1 - attempt, _PROMPT + 1).long()


def _last_logits(stack: Decoder, ids: list[int]) -> Tensor:
    """(2, V) after the prompt, and after one more token."""
    state = stack.new_state(1)
    logits = []
    for part, prefill in ((ids[:-1], True), (ids[-1:], False)):
        run = stack.begin(
            state, TokenBatch.of([part], [0], stack.device, prefill=prefill), "propagate"
        )
        hidden = stack.embed(run)
        for index in range(stack.n_layers):
            hidden = stack.layer(index, hidden, run)
        stack.end(state, run)
        logits.append(stack.unembed(hidden[-1:])[0])
    return torch.stack([one.cpu() for one in logits])
