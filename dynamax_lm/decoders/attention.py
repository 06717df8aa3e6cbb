"""Mistral- and Llama-type decoders as a layer stack, over transformers' own modules.

Owns how a layer is run. It does not know why a token stops running, nor where a token stands in
the cache: ``attention`` does.

Glossary: H query heads, G key/value heads, P head width, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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

from dynamax_lm.core.pending import Waiting
from dynamax_lm.core.stack import Chunk, Run
from dynamax_lm.decoders.attention_state import AttentionRun, AttentionState
from dynamax_lm.decoders.cpu.chosen_products import (
    NOTHING_CHOSEN,
    ChosenProducts,
    Slot,
    choose_products,
)
from dynamax_lm.decoders.cpu.norms import normalise, normalise_trusted
from dynamax_lm.decoders.cpu.products import project_trusted
from dynamax_lm.decoders.hooks import is_hooked

_BLOCK = 64
"""Slots are allocated in steps of this many."""


class MistralStack:
    """Layers of a ``MistralForCausalLM`` or ``LlamaForCausalLM``, one at a time.

    Args:
        model: the loaded model, in evaluation mode.
        trusted: whether every product is transformers' own, to the last bit.
    """

    skipped_states = frozenset({"propagate", "copy_kv", "recompute"})

    def __init__(self, model: Any, *, trusted: bool = False) -> None:
        self.products: ChosenProducts = NOTHING_CHOSEN
        self._project = project_trusted
        self._normalise = normalise_trusted if trusted else normalise
        self._trusted = trusted
        self.decoder = model.model
        self._model = model
        self.config = model.config
        self.n_layers: int = self.config.num_hidden_layers
        self.vocab_size: int = self.config.vocab_size
        self.window: int | None = getattr(self.config, "sliding_window", None)
        self.heads: int = self.config.num_attention_heads
        self.kv_heads: int = self.config.num_key_value_heads

    def choose_products(self, **options: Any) -> None:
        """Measure which products are fastest here, and arrange the weights for them, for good.

        The model stays usable. A trusted stack stays as it is.

        Args:
            **options: see ``chosen.choose_products``.
        """
        if self._trusted:
            return
        self.products = choose_products(list(self._slots()), **options)
        self._project = self.products.project

    def _slots(self) -> Iterator[Slot]:
        for layer in self.decoder.layers:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                yield Slot(layer.self_attn, name)
            if type(layer.mlp) in {MistralMLP, LlamaMLP}:
                for name in ("gate_proj", "up_proj", "down_proj"):
                    yield Slot(layer.mlp, name)
        tied = self.lm_head.weight is self.decoder.embed_tokens.weight
        yield Slot(self._model, "lm_head", stays=tied)

    @property
    def lm_head(self) -> Any:
        """The vocabulary projection."""
        return self._model.lm_head

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device: torch.device = self.decoder.embed_tokens.weight.device
        return device

    def new_state(self, batch: int) -> AttentionState:
        keys, values = [], []
        for layer in self.decoder.layers:
            weight = layer.input_layernorm.weight
            shape = (batch, self.kv_heads, 0, layer.self_attn.head_dim)
            keys.append(weight.new_empty(shape))
            values.append(weight.new_empty(shape))
        return AttentionState([0] * batch, [0] * batch, keys, values)

    def begin(self, state: AttentionState, chunk: Chunk, skipped_state: str) -> AttentionRun:
        run = AttentionRun(chunk, state, skipped_state)
        probe = self.decoder.embed_tokens.weight[:1]
        cos, sin = self.decoder.rotary_emb(probe, run.positions())
        run.cos, run.sin = cos.flatten(0, 1), sin.flatten(0, 1)
        self._reserve(state, run.used)
        return run

    def embed(self, run: Run) -> Tensor:
        embedded: Tensor = self.decoder.embed_tokens(run.chunk.ids.flatten()[run.cells])
        return embedded

    def layer(self, index: int, hidden: Tensor, run: Run) -> Tensor:
        assert isinstance(run, AttentionRun)
        layer = self.decoder.layers[index]
        device = layer.input_layernorm.weight.device
        if run.left and run.skipped_state != "recompute":
            self._skip(index, layer, run)
        if not hidden.shape[0]:
            return hidden
        hidden = hidden.to(device)
        hidden = hidden + self._attention(index, layer, hidden, run)
        mixed: Tensor = hidden + self._feed_forward(
            layer.mlp, self._normalise(layer.post_attention_layernorm, hidden)
        )
        return mixed

    def _attention(self, index: int, layer: Any, hidden: Tensor, run: AttentionRun) -> Tensor:
        """(N, D) the first block: apart, so that what it held is free before the wider second."""
        attention = layer.self_attn
        normed = self._normalise(layer.input_layernorm, hidden)
        query = self._project(attention.q_proj, normed).unflatten(-1, (self.heads, -1))
        key = self._project(attention.k_proj, normed).unflatten(-1, (self.kv_heads, -1))
        value = self._project(attention.v_proj, normed).unflatten(-1, (self.kv_heads, -1))
        cos, sin = run.angles()
        query, key = apply_rotary_pos_emb(query, key, cos.to(hidden.device), sin.to(hidden.device))
        self._write(index, key, value, run.cells, run)
        return self._project(attention.o_proj, self._attend(attention, index, query, run))

    def end(self, state: AttentionState, run: Run) -> None:
        chunk = run.chunk
        known = chunk.known or (0,) * len(chunk.rows)
        for row, length, old in zip(chunk.rows, chunk.lengths, known, strict=True):
            state.lengths[row] += chunk.width if chunk.prefill else length - old

    def unembed(self, hidden: Tensor) -> Tensor:
        norm = self.decoder.norm
        return self._project(self.lm_head, self._normalise(norm, hidden.to(norm.weight.device)))

    def mark(self, state: AttentionState) -> tuple[list[int], Waiting]:
        return list(state.lengths), state.waiting.copy()

    def rewind(self, state: AttentionState, mark: tuple[list[int], Waiting]) -> None:
        # Slots beyond a row's length are masked until they are written again.
        state.lengths, state.waiting = list(mark[0]), mark[1].copy()

    def take(self, state: AttentionState, rows: Sequence[int]) -> AttentionState:
        index = torch.tensor(rows, dtype=torch.long)
        return AttentionState(
            [state.pads[row] for row in rows],
            [state.lengths[row] for row in rows],
            [keys[index.to(keys.device)] for keys in state.keys],
            [values[index.to(values.device)] for values in state.values],
            state.waiting.take(rows),
        )

    def _feed_forward(self, mlp: Any, rows: Tensor) -> Tensor:
        """(N, D) the gated block, written out where it is known, so that it takes our products."""
        if self._trusted or type(mlp) not in {MistralMLP, LlamaMLP} or is_hooked(mlp):
            return project_trusted(mlp, rows)
        gate = mlp.act_fn(self._project(mlp.gate_proj, rows))
        gate *= self._project(mlp.up_proj, rows)  # in place: it is as wide as all else together
        return self._project(mlp.down_proj, gate)

    def _reserve(self, state: AttentionState, slots: int) -> None:
        if slots <= state.keys[0].shape[2]:
            return
        rounded = -(-slots // _BLOCK) * _BLOCK
        for cache in (state.keys, state.values):
            for index, old in enumerate(cache):
                # Zeros, not empty: a masked slot is multiplied by zero, and 0 * NaN is NaN.
                grown = old.new_zeros(*old.shape[:2], rounded, old.shape[3])
                grown[:, :, : old.shape[2]] = old
                cache[index] = grown

    def _write(
        self, index: int, key: Tensor, value: Tensor, cells: Tensor, run: AttentionRun
    ) -> None:
        """Store (N, G, P) keys and values at the cells' slots."""
        keys, values = run.state.keys[index], run.state.values[index]
        if cells is run.cells and run.whole and run.block:
            shape, slots_new = run.chunk.ids.shape, slice(run.used - run.chunk.width, run.used)
            keys[:, :, slots_new] = key.unflatten(0, shape).transpose(1, 2)
            values[:, :, slots_new] = value.unflatten(0, shape).transpose(1, 2)
            return
        rows, slots = run.state_rows[cells].to(keys.device), run.slots[cells].to(keys.device)
        keys[rows, :, slots] = key.to(keys.dtype)
        values[rows, :, slots] = value.to(values.dtype)

    def _skip(self, index: int, layer: nn.Module, run: AttentionRun) -> None:
        """Give this layer a key and a value for every cell that left below it."""
        if run.skipped_state == "copy_kv":
            rows, slots = run.state_rows[run.frozen], run.slots[run.frozen]
            for cache in (run.state.keys, run.state.values):
                above, below = cache[index], cache[index - 1]
                copied = below[rows.to(below.device), :, slots.to(below.device)]
                above[rows.to(above.device), :, slots.to(above.device)] = copied.to(above.device)
            return
        assert run.frozen_hidden is not None
        attention: Any = layer.self_attn
        norm: Any = layer.input_layernorm
        device = norm.weight.device
        normed = self._normalise(norm, run.frozen_hidden.to(device))
        key = self._project(attention.k_proj, normed).unflatten(-1, (self.kv_heads, -1))
        value = self._project(attention.v_proj, normed).unflatten(-1, (self.kv_heads, -1))
        cos, sin = run.cos[run.frozen].to(device), run.sin[run.frozen].to(device)
        key, _ = apply_rotary_pos_emb(key, key, cos, sin)
        self._write(index, key, value, run.frozen, run)

    def _attend(self, attention: Any, index: int, query: Tensor, run: AttentionRun) -> Tensor:
        """(N, H * P) attention of the running cells over all that their rows remember."""
        implementation = self.config._attn_implementation
        if implementation == "sdpa" and query.device.type == "cpu" and run.one_token:
            return self._attend_one(attention, index, query, run)
        additive = query.dtype if implementation == "eager" else None
        lay = run.queries(self.window, additive=additive)
        keys = run.state.keys[index]
        values = run.state.values[index]
        if lay.rows is not None:
            rows = lay.rows.to(keys.device)
            keys, values = keys[rows], values[rows]
        keys, values = keys[:, :, : run.used], values[:, :, : run.used]
        if lay.place is None:
            padded = query.unflatten(0, lay.shape)
        else:
            flat = query.new_zeros(lay.shape[0] * lay.shape[1], *query.shape[1:])
            flat[lay.place.to(query.device)] = query
            padded = flat.unflatten(0, lay.shape)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        mask = lay.mask if lay.mask is None else lay.mask.to(query.device)
        output, _ = attend(
            attention,
            padded.transpose(1, 2),
            keys,
            values,
            mask,
            dropout=0.0,
            scaling=attention.scaling,
            sliding_window=self.window,
        )
        output = output.flatten(0, 1).flatten(1)  # (B' * Tq, H * P)
        attended: Tensor = output if lay.place is None else output[lay.place.to(output.device)]
        return attended

    def _attend_one(self, attention: Any, index: int, query: Tensor, run: AttentionRun) -> Tensor:
        """(N, H * P) attention of one token a row, on views of the cache.

        The query heads that share a key stand where the kernel expects queries: keys and values
        are not repeated. Rows that are not the whole state are taken one by one, each over the
        slots that it really sees: nothing is gathered, and no mask is needed.
        """
        keys, values = run.state.keys[index], run.state.values[index]
        grouped = query.unflatten(1, (self.kv_heads, -1))  # (N, G, H / G, P)
        if run.whole and run.block and run.no_pads and self.window is None:
            seen = slice(0, run.used)
            output = F.scaled_dot_product_attention(
                grouped, keys[:, :, seen], values[:, :, seen], scale=attention.scaling
            )
        else:
            output = torch.empty_like(grouped)
            for place, (row, start, end) in enumerate(run.spans(self.window)):
                output[place] = F.scaled_dot_product_attention(
                    grouped[place : place + 1],
                    keys[row : row + 1, :, start:end],
                    values[row : row + 1, :, start:end],
                    scale=attention.scaling,
                )[0]
        return output.flatten(1)
