"""Layers with attention, over transformers' own modules.

This module has the layer adapter and the decoder made of such layers; ``attention_state`` has the
cache, ``attention_context`` its columns and masks.

Glossary: N running slots, D width, H query heads, G key/value heads, P head width, S columns.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.core.stack import ForwardPass
from dynamax_lm.decoders.adapter import SkipPolicy
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention_context import AttentionContext, StepContext
from dynamax_lm.decoders.attention_state import KeyValues
from dynamax_lm.decoders.block import Block
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.cpu.products import project_parted, project_rest
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.description import LLAMA, PLAIN, AttentionNames, BlockNames
from dynamax_lm.decoders.hooks import any_hooked
from dynamax_lm.decoders.recorded_steps import StepRows
from dynamax_lm.decoders.rows import RowLengths

Context = TypeVar("Context", bound=AttentionContext)

_STATIC_ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
"""Types of rotary embeddings whose angles depend on positions alone."""


class AttentionKind:
    """Data that the attention layers of a decoder share.

    Args:
        config: a transformers configuration, by default a ``MistralConfig`` or ``LlamaConfig``.
        rotary: the rotary embedding; ``None`` for layers without one.
        embedding: of token ids; rotary angles have its number format.
        block: where the parts of a block are.
        names: what its attention module has.
        window: largest number of visible keys, ``None`` for all; by default the configuration's.
        rotary_type: which angles these layers have, where a decoder has several.
        costs: FLOPs of a layer; by default the configuration's.
    """

    def __init__(
        self,
        config: Any,
        rotary: Any,
        embedding: nn.Module,
        *,
        block: BlockNames = LLAMA,
        names: AttentionNames = PLAIN,
        window: int | Literal["configured"] | None = "configured",
        rotary_type: str | None = None,
        costs: LayerCosts | None = None,
    ) -> None:
        self.config = config
        self.block, self.names = block, names
        self.rotates = rotary is not None
        self.rotary, self._embedding = rotary, embedding
        self._rotary_type = () if rotary_type is None else (rotary_type,)
        configured: int | None = None
        if config.model_type != "llama":  # whose attention ignores a stray one
            configured = getattr(config, "sliding_window", None)
        self.window = configured if window == "configured" else window
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self._costs = costs

    @property
    def costs(self) -> LayerCosts:
        """FLOPs of a layer."""
        return self._costs or AttentionCosts.from_config(self.config)

    def begin(self, run: ForwardPass, rows: RowLengths, skipped_state: str) -> AttentionContext:
        """Start a pass: columns and rotary angles of its slots."""
        del skipped_state
        return self._placed(AttentionContext(run, rows, self.window))

    def begin_step(self, run: ForwardPass, step: StepRows, skipped_state: str) -> StepContext:
        """Start a pass over the rows of a recorded step."""
        del skipped_state
        dtype = self._embedding.weight.dtype
        assert isinstance(dtype, torch.dtype)
        return self._placed(StepContext(run, step, self.window, dtype))

    def _placed(self, context: Context) -> Context:
        """``context`` with the rotary angles of its slots."""
        if self.rotates:
            probe: Any = self._embedding.weight[:1]  # type: ignore[index]
            positions = context.positions()
            cos, sin = self.rotary(probe, positions, *self._rotary_type)
            home = positions.device  # accelerate places this module with the last layers
            context.cos, context.sin = cos.flatten(0, 1).to(home), sin.flatten(0, 1).to(home)
        if self.names.position_scale:
            context.scale = _position_scale(context.positions(), self.config.rope_parameters)
        return context


class AttentionLayer:
    """A block with grouped-query attention, such as a ``MistralDecoderLayer``.

    Args:
        layer: the module.
        kind: data shared with other layers.
        arithmetic: matrix products and norms.
    """

    def __init__(self, layer: Any, kind: AttentionKind, arithmetic: Arithmetic) -> None:
        self.kind = kind
        self._block = Block(layer, kind.block, kind.config, arithmetic)
        self._attention = getattr(layer, kind.names.module)
        self._arithmetic = arithmetic
        home = sys.modules[type(self._attention).__module__]  # of transformers, for this family
        self._rotate: Any = getattr(home, "apply_rotary_pos_emb", None)
        self._eager = home.eager_attention_forward
        self._query_width = kind.heads * self._attention.head_dim

    @property
    def recordable(self) -> bool:
        """Whether a recorded step can contain the layer: nothing reads the device or is hooked."""
        kind, rope = self.kind, getattr(self.kind.config, "rope_parameters", None) or {}
        types = {one.get("rope_type") for one in (rope, *rope.values()) if isinstance(one, dict)}
        return (
            self._block.recordable
            and kind.config._attn_implementation == "sdpa"
            and not kind.names.soft_cap
            and types - {None} <= _STATIC_ROTARY
            and not any_hooked(self._attention, kind.rotary)
        )

    def linears(self) -> Iterator[LinearPlace]:
        """Projections, and those of a gated feed-forward module."""
        if self.kind.names.fused:
            yield LinearPlace(self._attention, "qkv_proj", cut=self._query_width)
        else:
            for name in ("q_proj", "k_proj", "v_proj"):
                yield LinearPlace(self._attention, name)
        yield LinearPlace(self._attention, "o_proj")
        yield from self._block.linears()

    def new_state(self, batch: int) -> KeyValues:
        """No columns yet."""
        weight = self._block.reference
        shape = (batch, self.kind.kv_heads, 0, self._attention.head_dim)
        return KeyValues(weight.new_empty(shape), weight.new_empty(shape))

    def run(
        self, hidden: Tensor, state: KeyValues, context: AttentionContext, skipped: None
    ) -> Tensor:
        """(N, D) of the running slots (N, D); their keys and values are stored."""
        del skipped
        if not hidden.shape[0]:
            return hidden
        hidden = self._block.arrive(hidden)
        return self._block.write(hidden, self.mix(self._block.read(hidden), state, context))

    def withdraw(self, state: KeyValues, kept: Mapping[int, int]) -> None:
        """Nothing to do: columns beyond a row's length are masked until they are written again."""

    def propagate(
        self, state: KeyValues, below: KeyValues | None, context: AttentionContext
    ) -> None:
        """Keys and values of the frozen slots from their hidden states at the exit (CALM)."""
        del below
        assert context.run.frozen_hidden is not None
        normed = self._block.read(self._block.arrive(context.run.frozen_hidden))
        self.store_frozen(normed, state, context)

    def store_frozen(self, normed: Tensor, state: KeyValues, context: AttentionContext) -> None:
        """Store keys and values of the frozen slots, from the attention's input (M, D) for them."""
        frozen, device = context.run.frozen, normed.device
        key, value = self._key_value(normed)
        if self.kind.rotates:
            cos, sin = context.cos[frozen].to(device), context.sin[frozen].to(device)
            key, _ = self._rotate(key, key, cos, sin)
        state.reserve(context.used)
        state.write(context.state_rows[frozen], context.columns[frozen], key, value)

    def copy_kv(self, state: KeyValues, below: KeyValues | None, context: AttentionContext) -> None:
        """Keys and values of the frozen slots as the attention layer below has them (DYNAMAX)."""
        assert below is not None, "no token exits below the first layer"
        frozen = context.run.frozen
        state.reserve(context.used)
        state.copy_from(below, context.state_rows[frozen], context.columns[frozen])

    skipped: ClassVar[Mapping[str, SkipPolicy]] = {"propagate": propagate, "copy_kv": copy_kv}

    def mix(self, normed: Tensor, state: KeyValues, context: AttentionContext) -> Tensor:
        """(N, D) the attention module's output for its input ``normed`` (N, D)."""
        query, key, value = self._query_key_value(normed)
        if self.kind.rotates:
            cos, sin = context.angles()
            query, key = self._rotate(query, key, cos.to(normed.device), sin.to(normed.device))
        if self.kind.names.position_scale:
            query = query * context.scale[context.run.slots, None, None].to(query)
        state.reserve(context.used)
        context.store(state, key, value)
        return self._arithmetic.project(self._attention.o_proj, self._attend(query, state, context))

    def _query_key_value(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, H, P) queries and (N, G, P) keys, not yet rotated, and values."""
        project = self._arithmetic.project
        if self.kind.names.fused:
            query, both = project_parted(
                self._attention.qkv_proj, normed, self._query_width, project
            )
            return self._heads(query, "q_norm", self.kind.heads), *self._split(both)
        query = self._projected("q_proj", normed)
        return self._heads(query, "q_norm", self.kind.heads), *self._key_value(normed)

    def _key_value(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """(N, G, P) keys, not yet rotated, and values."""
        if self.kind.names.fused:
            fused = self._attention.qkv_proj
            return self._split(
                project_rest(fused, normed, self._query_width, self._arithmetic.product_of)
            )
        key, value = self._projected("k_proj", normed), self._projected("v_proj", normed)
        return self._keys(key), value.unflatten(-1, (self.kind.kv_heads, -1))

    def _projected(self, name: str, normed: Tensor) -> Tensor:
        """(N, E) the projection of that name."""
        return self._arithmetic.project(getattr(self._attention, name), normed)

    def _split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """The same from (N, 2 * G * P) keys and values side by side."""
        key, value = both.chunk(2, dim=-1)
        return self._keys(key), value.unflatten(-1, (self.kind.kv_heads, -1))

    def _keys(self, key: Tensor) -> Tensor:
        heads = self._heads(key, "k_norm", self.kind.kv_heads)
        return heads * self._attention.key_multiplier if self.kind.names.key_multiplier else heads

    def _heads(self, projected: Tensor, norm: str, heads: int) -> Tensor:
        """(N, heads, P) of (N, heads * P), normalised where the attention module has norms."""
        norms, normalise = self.kind.names.norms, self._arithmetic.normalise
        if norms == "whole":
            projected = normalise(getattr(self._attention, norm), projected)
        parted = projected.unflatten(-1, (heads, -1))
        return normalise(getattr(self._attention, norm), parted) if norms == "head" else parted

    def _attend(self, query: Tensor, state: KeyValues, context: AttentionContext) -> Tensor:
        """(N, H * P) attention of the running slots over the cached tokens of their rows."""
        if isinstance(context, StepContext):
            return self._attend_step(query, state, context)
        implementation = self.kind.config._attn_implementation
        if implementation == "sdpa" and query.device.type == "cpu" and context.one_token:
            return self._attend_one(query, state, context)
        if implementation == "sdpa" and query.device.type == "cpu" and context.few_tokens:
            return self._attend_few(query, state, context)
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
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, self._eager)
        capped: dict[str, Any] = {}
        if self.kind.names.soft_cap:
            capped["softcap"] = self._attention.attn_logit_softcapping
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
            **capped,
        )
        output = output.flatten(0, 1).flatten(1)  # (B' * Tq, H * P)
        attended: Tensor = output if lay.place is None else output[lay.place.to(output.device)]
        return attended

    def _attend_step(self, query: Tensor, state: KeyValues, context: StepContext) -> Tensor:
        """(N, H * P) attention of one token a row in a recorded step.

        The query heads that share a key are passed as queries of one head.
        """
        grouped = query.unflatten(1, (self.kind.kv_heads, -1))  # (N, G, H / G, P)
        keys, values, mask = context.keys_and_values(state)
        mask = mask.expand(*grouped.shape[:3], mask.shape[3])
        attended = F.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=self._attention.scaling
        )
        return attended.flatten(1)

    def _attend_one(self, query: Tensor, state: KeyValues, context: AttentionContext) -> Tensor:
        """(N, H * P) attention of one token a row, on views of the cache.

        The query heads that share a key are passed as queries of one head, so that keys and values
        are not repeated. If not every row of the state runs, rows are computed one by one, each
        over its visible columns, or together over a masked copy where that is small.
        """
        keys, values = state.keys, state.values
        grouped = query.unflatten(1, (self.kind.kv_heads, -1))  # (N, G, H / G, P)
        attend = partial(F.scaled_dot_product_attention, scale=self._attention.scaling)
        everything = context.no_pads and self.kind.window is None
        if context.run.whole and context.block and everything:
            seen = slice(0, context.used)
            return attend(grouped, keys[:, :, seen], values[:, :, seen]).flatten(1)
        if (spans := context.rectangle(state)) is not None:
            keys = keys[:, :, spans.columns].index_select(0, spans.rows)
            values = values[:, :, spans.columns].index_select(0, spans.rows)
            return attend(grouped, keys, values, attn_mask=spans.mask).flatten(1)
        output = torch.empty_like(grouped)
        for place, (row, start, end) in enumerate(context.spans()):
            output[place] = attend(
                grouped[place : place + 1],
                keys[row : row + 1, :, start:end],
                values[row : row + 1, :, start:end],
            )[0]
        return output.flatten(1)

    def _attend_few(self, query: Tensor, state: KeyValues, context: AttentionContext) -> Tensor:
        """(N, H * P) attention of a few tokens a row, row by row on views of the cache.

        The query heads that share a key are passed as further queries of one head, so that keys and
        values are not repeated.
        """
        groups = self.kind.kv_heads
        shared = self.kind.heads // groups
        parts = []
        for row, slots, columns, mask in context.stretches(query.dtype, shared):
            some = query[slots].unflatten(1, (groups, shared)).permute(1, 2, 0, 3)  # (G, R, T, P)
            attended = F.scaled_dot_product_attention(
                some.flatten(1, 2)[None],
                state.keys[row : row + 1, :, columns],
                state.values[row : row + 1, :, columns],
                mask,
                scale=self._attention.scaling,
            )
            parts.append(attended.view(some.shape).permute(2, 0, 1, 3).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _position_scale(positions: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """(B * T,) the factor of a query at each of ``positions`` (B, T): 1 in the original context."""
    contexts = torch.floor(positions / rope["original_max_position_embeddings"])
    scale: Tensor = 1 + rope["llama_4_scaling_beta"] * torch.log(1 + contexts)
    return scale.flatten()


class MistralStack(Decoder):
    """A ``MistralForCausalLM`` or ``LlamaForCausalLM``.

    >>> from transformers import MistralConfig, MistralForCausalLM
    >>> widths = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    >>> config = MistralConfig(vocab_size=32, num_hidden_layers=3, num_key_value_heads=1, **widths)
    >>> stack = MistralStack(MistralForCausalLM(config).eval())
    >>> stack.n_layers, stack.vocab_size
    (3, 32)

    Args:
        model: the loaded model, in evaluation mode.

    Attributes:
        decoder: the model without its vocabulary head.
    """

    def __init__(self, model: Any) -> None:
        check_unaltered(model)
        self.decoder = model.model
        arithmetic = Arithmetic()
        kind = AttentionKind(model.config, self.decoder.rotary_emb, self.decoder.embed_tokens)
        super().__init__(
            [AttentionLayer(layer, kind, arithmetic) for layer in self.decoder.layers],
            embedding=self.decoder.embed_tokens,
            norm=self.decoder.norm,
            head=LinearPlace(model, "lm_head"),
            vocab_size=model.config.vocab_size,
            arithmetic=arithmetic,
        )
