"""Attention layers of Mistral and Llama type, over transformers' own modules.

This module has the layer adapter and the decoder made of such layers; ``attention_state`` has the
cache, its slots and its masks.

Glossary: N running cells, D width, H query heads, G key/value heads, P head width, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import (
    MistralMLP,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention_state import AttentionContext, KeyValues
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.cpu.chosen_products import Slot
from dynamax_lm.decoders.cpu.products import project_trusted
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.hooks import is_hooked
from dynamax_lm.decoders.rows import RowLengths

_KNOWN_BLOCKS = frozenset({MistralMLP, LlamaMLP})


class AttentionKind:
    """Data that the attention layers of a decoder share.

    Args:
        config: a transformers ``MistralConfig`` or ``LlamaConfig``.
        rotary: the rotary embedding.
        embedding: of token ids; rotary angles have its number format.
    """

    def __init__(self, config: Any, rotary: Any, embedding: nn.Module) -> None:
        self.config = config
        self._rotary, self._embedding = rotary, embedding
        self.window: int | None = None
        if config.model_type != "llama":  # whose attention ignores a stray one
            self.window = getattr(config, "sliding_window", None)
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads

    @property
    def costs(self) -> AttentionCosts:
        """FLOPs of a layer."""
        return AttentionCosts.from_config(self.config)

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> AttentionContext:
        """Start a pass: slots and rotary angles of its cells."""
        del skipped_state
        probe: Any = self._embedding.weight[:1]  # type: ignore[index]
        context = AttentionContext(run, rows, self.window)
        cos, sin = self._rotary(probe, context.positions())
        context.cos, context.sin = cos.flatten(0, 1), sin.flatten(0, 1)
        return context


class AttentionLayer:
    """A ``MistralDecoderLayer`` or ``LlamaDecoderLayer``.

    Args:
        layer: the module.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    def __init__(self, layer: Any, kind: AttentionKind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        self._layer, self._attention = layer, layer.self_attn
        self._arithmetic = arithmetic

    def linears(self) -> Iterator[Slot]:
        """Projections, and those of the feed-forward block if its type is known."""
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield Slot(self._attention, name)
        if type(self._layer.mlp) in _KNOWN_BLOCKS:
            for name in ("gate_proj", "up_proj", "down_proj"):
                yield Slot(self._layer.mlp, name)

    def new_state(self, batch: int) -> KeyValues:
        """No slots yet."""
        weight = self._layer.input_layernorm.weight
        shape = (batch, self.kind.kv_heads, 0, self._attention.head_dim)
        return KeyValues(weight.new_empty(shape), weight.new_empty(shape))

    def run(
        self, hidden: Tensor, state: KeyValues, context: AttentionContext, skipped: None
    ) -> Tensor:
        """(N, D) of the running cells (N, D); their keys and values are stored."""
        del skipped
        if not hidden.shape[0]:
            return hidden
        layer = self._layer
        hidden = hidden.to(layer.input_layernorm.weight.device)
        hidden = hidden + self._attention_block(hidden, state, context)
        mixed: Tensor = hidden + self._feed_forward(
            self._arithmetic.normalise(layer.post_attention_layernorm, hidden)
        )
        return mixed

    def withdraw(self, state: KeyValues, kept: Mapping[int, int]) -> None:
        """Nothing to do: slots beyond a row's length are masked until they are written again."""

    def propagate(
        self, state: KeyValues, below: KeyValues | None, context: AttentionContext
    ) -> None:
        """Keys and values of the frozen cells from their hidden states at the exit (CALM)."""
        del below
        run, norm = context.run, self._layer.input_layernorm
        assert run.frozen_hidden is not None
        device = norm.weight.device
        normed = self._arithmetic.normalise(norm, run.frozen_hidden.to(device))
        key, value = self._key_value(normed)
        cos, sin = context.cos[run.frozen].to(device), context.sin[run.frozen].to(device)
        key, _ = apply_rotary_pos_emb(key, key, cos, sin)
        state.reserve(context.used)
        state.write(context.state_rows[run.frozen], context.slots[run.frozen], key, value)

    def copy_kv(self, state: KeyValues, below: KeyValues | None, context: AttentionContext) -> None:
        """Keys and values of the frozen cells as the layer below has them (DYNAMAX)."""
        assert below is not None, "no cell exits below the first layer"
        frozen = context.run.frozen
        state.reserve(context.used)
        state.copy_from(below, context.state_rows[frozen], context.slots[frozen])

    skipped: ClassVar[Mapping[str, SkipPolicy]] = {"propagate": propagate, "copy_kv": copy_kv}

    def _attention_block(
        self, hidden: Tensor, state: KeyValues, context: AttentionContext
    ) -> Tensor:
        """(N, D) the attention block; a function, so that its tensors are freed before the next."""
        arithmetic, attention = self._arithmetic, self._attention
        normed = arithmetic.normalise(self._layer.input_layernorm, hidden)
        query = arithmetic.project(attention.q_proj, normed).unflatten(-1, (self.kind.heads, -1))
        key, value = self._key_value(normed)
        cos, sin = context.angles()
        query, key = apply_rotary_pos_emb(query, key, cos.to(hidden.device), sin.to(hidden.device))
        state.reserve(context.used)
        context.store(state, key, value)
        return arithmetic.project(attention.o_proj, self._attend(query, state, context))

    def _key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """(N, G, P) keys, not yet rotated, and values."""
        project, shape = self._arithmetic.project, (self.kind.kv_heads, -1)
        key = project(self._attention.k_proj, normed).unflatten(-1, shape)
        return key, project(self._attention.v_proj, normed).unflatten(-1, shape)

    def _feed_forward(self, rows: Tensor) -> Tensor:
        """(N, D) the gated block; of a known type with the chosen products."""
        mlp, arithmetic = self._layer.mlp, self._arithmetic
        if arithmetic.trusted or type(mlp) not in _KNOWN_BLOCKS or is_hooked(mlp):
            return project_trusted(mlp, rows)
        gate = mlp.act_fn(arithmetic.project(mlp.gate_proj, rows))
        gate *= arithmetic.project(mlp.up_proj, rows)  # in place: as wide as all else together
        return arithmetic.project(mlp.down_proj, gate)

    def _attend(self, query: Tensor, state: KeyValues, context: AttentionContext) -> Tensor:
        """(N, H * P) attention of the running cells over the cached tokens of their rows."""
        implementation = self.kind.config._attn_implementation
        if implementation == "sdpa" and query.device.type == "cpu" and context.one_token:
            return self._attend_one(query, state, context)
        lay = context.queries(additive=query.dtype if implementation == "eager" else None)
        keys, values = state.keys, state.values
        if lay.rows is not None:
            rows = lay.rows.to(keys.device)
            keys, values = keys[rows], values[rows]
        keys, values = keys[:, :, : context.used], values[:, :, : context.used]
        if lay.place is None:
            padded = query.unflatten(0, lay.shape)
        else:
            flat = query.new_zeros(lay.shape[0] * lay.shape[1], *query.shape[1:])
            flat[lay.place.to(query.device)] = query
            padded = flat.unflatten(0, lay.shape)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        mask = lay.mask if lay.mask is None else lay.mask.to(query.device)
        output, _ = attend(
            self._attention,
            padded.transpose(1, 2),
            keys,
            values,
            mask,
            dropout=0.0,
            scaling=self._attention.scaling,
            sliding_window=self.kind.window,
        )
        output = output.flatten(0, 1).flatten(1)  # (B' * Tq, H * P)
        attended: Tensor = output if lay.place is None else output[lay.place.to(output.device)]
        return attended

    def _attend_one(self, query: Tensor, state: KeyValues, context: AttentionContext) -> Tensor:
        """(N, H * P) attention of one token a row, on views of the cache.

        The query heads that share a key are passed as queries of one head, so that keys and values
        are not repeated. If not every row of the state runs, rows are computed one by one, each
        over its visible slots, without gathering or masks.
        """
        keys, values = state.keys, state.values
        grouped = query.unflatten(1, (self.kind.kv_heads, -1))  # (N, G, H / G, P)
        everything = context.no_pads and self.kind.window is None
        if context.run.whole and context.block and everything:
            seen = slice(0, context.used)
            output = F.scaled_dot_product_attention(
                grouped, keys[:, :, seen], values[:, :, seen], scale=self._attention.scaling
            )
        else:
            output = torch.empty_like(grouped)
            for place, (row, start, end) in enumerate(context.spans()):
                output[place] = F.scaled_dot_product_attention(
                    grouped[place : place + 1],
                    keys[row : row + 1, :, start:end],
                    values[row : row + 1, :, start:end],
                    scale=self._attention.scaling,
                )[0]
        return output.flatten(1)


class MistralStack(Decoder):
    """A ``MistralForCausalLM`` or ``LlamaForCausalLM``.

    Args:
        model: the loaded model, in evaluation mode.
        trusted: whether every operation is transformers' own, to the last bit.

    Attributes:
        decoder: the model without its vocabulary head.
    """

    def __init__(self, model: Any, *, trusted: bool = False) -> None:
        check_unaltered(model)
        self.decoder = model.model
        arithmetic = Arithmetic(trusted)
        kind = AttentionKind(model.config, self.decoder.rotary_emb, self.decoder.embed_tokens)
        super().__init__(
            [AttentionLayer(layer, kind, arithmetic) for layer in self.decoder.layers],
            embedding=self.decoder.embed_tokens,
            norm=self.decoder.norm,
            head=Slot(model, "lm_head"),
            vocab_size=model.config.vocab_size,
            arithmetic=arithmetic,
        )
