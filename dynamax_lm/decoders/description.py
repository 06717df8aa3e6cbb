"""The description of a decoder: where its parts are, and what they have.

Adapters are built from it, and costs; it has names and numbers alone, no module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class BlockNames:
    """Where a block's parts are. Empty names stand for parts that it does not have.

    Attributes:
        norm: before the mixer.
        out_norm: after the mixer, before the residual sum.
        ff_norm: before the feed-forward module.
        ff_out_norm: after it.
        feed_forward: the module, or several whose outputs are summed, in that order; of those that
            are ``None`` in a block, none.
        gated: whether it is ``down_proj(act_fn(gate_proj(x)) * up_proj(x))`` and nothing else, so
            that its products may be replaced.
        residual: attribute of the configuration by which both outputs are multiplied.
        casts: whether the input of ``norm`` has the norm's number format, and the residual sum
            float32 where the configuration says so (state-space blocks).
    """

    norm: str = "input_layernorm"
    out_norm: str = ""
    ff_norm: str = "post_attention_layernorm"
    ff_out_norm: str = ""
    feed_forward: tuple[str, ...] = ("mlp",)
    gated: bool = True
    residual: str = ""
    casts: bool = False


@dataclass(frozen=True, slots=True)
class AttentionNames:
    """What an attention module has.

    Attributes:
        module: its name in the block.
        fused: whether one ``qkv_proj`` is in place of three projections.
        norms: norms of queries and keys: of each ``head``, of all heads as a ``whole``, or none.
        key_multiplier: whether keys are multiplied by the module's ``key_multiplier``.
        soft_cap: whether scores are capped by the module's ``attn_logit_softcapping``.
        position_scale: whether rotated queries are scaled with their position, as in Llama 4.
    """

    module: str = "self_attn"
    fused: bool = False
    norms: Literal["", "head", "whole"] = ""
    key_multiplier: bool = False
    soft_cap: bool = False
    position_scale: bool = False


LLAMA = BlockNames()
"""The block of Llama, Mistral and most of their successors."""

STATE_SPACE = BlockNames(norm="norm", ff_norm="", feed_forward=(), casts=True)
"""A block of a norm and a mixer, as Mamba's."""

PLAIN = AttentionNames()
"""Their attention module."""


LayerName = Literal[
    "attention", "mamba2", "mamba", "attention+mamba2", "shared_attention+mamba2", "feed_forward"
]
"""A kind of layer: its mixer, two in parallel, a mixer that reads the output of an attention block
shared with other layers, or a feed-forward module alone."""

Fault = Callable[[Any], str | None]
"""Why a configuration cannot be run, or ``None``."""


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """Where the parts of a model are.

    Attributes:
        base: the model without its vocabulary head.
        embedding: of token ids, in ``base``; the next two likewise.
        norm: the final norm.
        rotary: the rotary embedding; empty for decoders without one.
    """

    base: str = "model"
    embedding: str = "embed_tokens"
    norm: str = "norm"
    rotary: str = "rotary_emb"


@dataclass(frozen=True, slots=True)
class ScalingNames:
    """Attributes of the configuration that scale embeddings and logits; empty for none."""

    embeddings: str = ""
    logits: str = ""
    divisor: str = ""
    cap: str = ""
    float32: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row.

    Attributes:
        model_type: of transformers.
        modules: where the parts of the model are.
        scaling: of embeddings and logits.
        block: where the parts of a block are.
        attention: what an attention module has.
        mixer: the name of a block's state-space module.
        alone: where the parts of a block are that has a feed-forward module alone.
        windows: which layers have the sliding window of the configuration: none, all (if it is
            set), or those of type ``sliding_attention`` in ``layer_types``.
        rotary: whether the angles of all layers are equal (``one``), depend on the layer's type
            (``by_type``), or are applied in the layers where ``no_rope_layers`` is 1 (``some``).
        layer: the kind of each layer, from the configuration and the index of the layer.
        faults: refusals of this family's own variants.
    """

    model_type: str
    modules: ModuleNames = ModuleNames()
    scaling: ScalingNames = ScalingNames()
    block: BlockNames = LLAMA
    attention: AttentionNames = PLAIN
    mixer: str = "mamba"
    alone: BlockNames | None = None
    windows: Literal["none", "all", "by_type"] = "none"
    rotary: Literal["one", "by_type", "some", "none"] = "one"
    layer: Callable[[Any, int], LayerName] = field(default=lambda config, index: "attention")
    faults: tuple[Fault, ...] = ()


def text_config(config: Any) -> Any:
    """The configuration of the text decoder: of a multimodal wrapper its part, else ``config``."""
    return getattr(config, "text_config", None) or config


def window_of(family: Family, config: Any, index: int) -> int | None:
    """Largest number of visible keys of layer ``index``, from 0; ``None`` for all."""
    window: int | None = getattr(config, "sliding_window", None)
    if family.windows == "none" or window is None:
        return None
    if family.windows == "all":
        return window
    return window if config.layer_types[index] == "sliding_attention" else None


def rotates(family: Family, config: Any, index: int) -> bool:
    """Whether layer ``index`` applies rotary angles."""
    if not getattr(config, "use_mem_rope", True):
        return False
    if family.rotary == "some":
        return bool(config.no_rope_layers[index])
    if getattr(config, "position_embedding_type", "rope") != "rope":
        return False
    return family.rotary != "none"


def rotary_type_of(family: Family, config: Any, index: int) -> str | None:
    """The type of the rotary angles of layer ``index``, where a decoder has several."""
    return config.layer_types[index] if family.rotary == "by_type" else None


def layers_of(family: Family, config: Any) -> list[LayerName]:
    """The kind of every layer, bottom to top."""
    return [family.layer(config, index) for index in range(config.num_hidden_layers)]
