"""Mistral- and Llama-type decoders as a layer stack, over transformers' own modules.

Owns the attention cache, positions and masks. It does not know why a token stops running. Rows
are laid out by slots: a row's prompt ends at the same slot as its neighbours' (pads on the left),
and position = slot - pad.

Glossary: H query heads, G key/value heads, P head width, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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

from dynamax_lm.models.hooks import is_hooked
from dynamax_lm.models.norms import normalise, normalise_trusted
from dynamax_lm.models.products import pack, project, project_trusted
from dynamax_lm.models.stack import Chunk, Run
from dynamax_lm.models.waiting import Waiting

_BLOCK = 64
"""Slots are allocated in steps of this many."""


@dataclass
class AttentionState:
    """Keys and values of every layer.

    Attributes:
        pads: pads to the left of each row.
        lengths: slots used by each row, pads included.
        keys: per layer (B, G, S, P).
        values: per layer (B, G, S, P).
        waiting: tokens that have a slot, but no key and value in every layer yet.
    """

    pads: list[int]
    lengths: list[int]
    keys: list[Tensor]
    values: list[Tensor]
    waiting: Waiting = field(default_factory=Waiting)

    def seen(self, layer: int) -> list[int]:
        """Tokens that ``layer`` has seen, per row: all but those that wait below it."""
        pairs = enumerate(zip(self.lengths, self.pads, strict=True))
        return [length - pad - self.waiting.missing(row, layer) for row, (length, pad) in pairs]


@dataclass(frozen=True, slots=True)
class _Queries:
    """How the running cells lie in the attention product.

    Attributes:
        rows: the state's rows that have a query, or ``None`` for all of them, in order.
        place: (N,) place of each cell in the (B', Tq) rectangle, or ``None`` if it fills it.
        shape: (B', Tq).
        mask: (B', 1, Tq, S) or ``None``.
    """

    rows: Tensor | None
    place: Tensor | None
    shape: tuple[int, int]
    mask: Tensor | None


class AttentionRun(Run):
    """A pass with slots, rotary angles and the layout of the queries.

    Attributes:
        slots: (B * T,) the slot of every cell.
        state_rows: (B * T,) the state's row of every cell.
        cos: (B * T, P) rotary cosines; ``sin`` likewise.
        used: slots that any row uses once the chunk is in.
        block: whether the chunk's cells are the same slots of every row of the state.
    """

    def __init__(self, chunk: Chunk, state: AttentionState, skipped_state: str) -> None:
        super().__init__(chunk)
        device = chunk.ids.device
        width = chunk.width
        self.state = state
        self.skipped_state = skipped_state
        if chunk.prefill:
            pads = [width - length for length in chunk.lengths]
            for row, pad in zip(chunk.rows, pads, strict=True):
                state.pads[row], state.lengths[row] = pad, 0
        known = chunk.known or (0,) * len(chunk.rows)
        starts = [state.lengths[row] - old for row, old in zip(chunk.rows, known, strict=True)]
        self.starts = torch.tensor(starts, device=device)
        self.pads = torch.tensor([state.pads[row] for row in chunk.rows], device=device)
        columns = torch.arange(width, device=device)
        self.slots = (self.starts[:, None] + columns).flatten()
        self.state_rows = torch.tensor(chunk.rows, device=device).repeat_interleave(width)
        self.used = max(starts) + width
        self.no_pads = not any(state.pads[row] for row in chunk.rows)
        self.level = min(starts) == max(starts) and chunk.even
        self.all_rows = chunk.rows == tuple(range(len(state.lengths)))
        self.cos: Tensor
        self.sin: Tensor
        self.block = self.level and self.all_rows
        self._single: bool | None = None
        self.changed()

    @property
    def one_token(self) -> bool:
        """Whether each row that runs has one cell that does, as in a decoding step."""
        if self._single is None:
            single = not self.chunk.prefill
            if single and self.chunk.width > 1:
                rows = self.cells // self.chunk.width
                single = not bool((rows[1:] == rows[:-1]).any())
            self._single = single
        return self._single

    def positions(self) -> Tensor:
        """(B, T) rotary positions, 0 at each row's first token; pads count from 0 as well."""
        shape = self.chunk.ids.shape
        return (self.slots.view(shape) - self.pads[:, None]).clamp(min=0)

    def changed(self) -> None:
        self._queries: _Queries | None = None
        self._angles: tuple[Tensor, Tensor] | None = None
        self._spans: list[tuple[int, int, int]] | None = None
        self._single = None

    def angles(self) -> tuple[Tensor, Tensor]:
        """(N, P) rotary cosines and sines of the running cells."""
        if self._angles is None:
            whole = self.whole
            self._angles = (
                (self.cos, self.sin) if whole else (self.cos[self.cells], self.sin[self.cells])
            )
        return self._angles

    def spans(self, window: int | None) -> list[tuple[int, int, int]]:
        """Where one token a row runs: the row of each running cell, and the slots it sees."""
        if self._spans is None:
            self._spans = []
            rows = self.state_rows[self.cells].tolist()
            for row, slot in zip(rows, self.slots[self.cells].tolist(), strict=True):
                end = slot + 1
                start = self.state.pads[row]
                if window is not None:
                    start = max(start, end - window)
                self._spans.append((row, start, end))
        return self._spans

    def queries(self, window: int | None, *, additive: torch.dtype | None) -> _Queries:
        """The layout of the running cells; ``additive`` asks for a mask of that float type."""
        if self._queries is None:
            self._queries = self._lay_out(window, additive)
        return self._queries

    def _lay_out(self, window: int | None, additive: torch.dtype | None) -> _Queries:
        batch, width = self.chunk.ids.shape
        if self.whole:
            rows, place, shape = None, None, (batch, width)
            chunk_rows = torch.arange(batch, device=self.slots.device)
            slots = self.slots.view(batch, width)
        else:
            row_of = self.cells // width
            chunk_rows, index, counts = torch.unique_consecutive(
                row_of, return_inverse=True, return_counts=True
            )
            first = counts.cumsum(0) - counts
            rank = torch.arange(row_of.shape[0], device=row_of.device) - first[index]
            shape = (chunk_rows.shape[0], int(counts.max()))
            place = index * shape[1] + rank
            slots = self.slots.new_zeros(shape).flatten()
            slots[place] = self.slots[self.cells]
            slots = slots.view(shape)
            rows = chunk_rows
            if shape[0] * shape[1] == place.shape[0]:
                place = None
        if not (rows is None and self.all_rows):
            rows = self.state_rows.view(batch, width)[chunk_rows, 0]
        return _Queries(rows, place, shape, self._mask(slots, chunk_rows, window, additive))

    def _mask(
        self, slots: Tensor, chunk_rows: Tensor, window: int | None, additive: torch.dtype | None
    ) -> Tensor | None:
        inside = window is None or self.used < window
        from_empty = self.chunk.prefill and self.whole and additive is None
        one_token = self.chunk.width == 1
        if self.no_pads and self.level and inside and (from_empty or one_token):
            return None  # the kernel's own causal rule says the same, and may be faster
        keys = torch.arange(self.used, device=slots.device)
        queries = slots[:, :, None]
        visible = (keys <= queries) & (keys >= self.pads[chunk_rows][:, None, None])
        if window is not None:
            visible &= queries - keys < window
        visible |= keys == queries  # a pad sees itself: a row without any key would be NaN
        mask = visible[:, None]
        if additive is None:
            return mask
        floor = torch.finfo(additive).min
        return torch.zeros_like(mask, dtype=additive).masked_fill(~mask, floor)


class MistralStack:
    """Layers of a ``MistralForCausalLM`` or ``LlamaForCausalLM``, one at a time.

    Args:
        model: the loaded model, in evaluation mode.
        trusted: whether every product is transformers' own, to the last bit.
    """

    skipped_states = frozenset({"propagate", "copy_kv", "recompute"})

    def __init__(self, model: Any, *, trusted: bool = False) -> None:
        self._project = project_trusted if trusted else project
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

    def pack(self) -> None:
        """Arrange the weights for their fastest product, for good; the model stays usable."""
        if self._trusted:
            return
        for layer in self.decoder.layers:
            pack(layer.self_attn, ["q_proj", "k_proj", "v_proj", "o_proj"])
            if type(layer.mlp) in {MistralMLP, LlamaMLP}:
                pack(layer.mlp, ["gate_proj", "up_proj", "down_proj"])
        if self.lm_head.weight is not self.decoder.embed_tokens.weight:
            pack(self._model, ["lm_head"])

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
