"""A decoder of any family of the table, over transformers' own modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamax_lm.core.costs import LayerCosts
from dynamax_lm.decoders.adapter import LayerAdapter
from dynamax_lm.decoders.altered import check_unaltered
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention import AttentionKind, AttentionLayer
from dynamax_lm.decoders.costs.mamba import MambaCosts
from dynamax_lm.decoders.cpu.chosen_products import LinearPlace
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.description import (
    Family,
    layers_of,
    rotary_type_of,
    rotates,
    window_of,
)
from dynamax_lm.decoders.families import text_decoder
from dynamax_lm.decoders.family_costs import layer_costs
from dynamax_lm.decoders.feed_forward import FeedForwardKind, FeedForwardLayer
from dynamax_lm.decoders.mamba1 import Mamba1Layer
from dynamax_lm.decoders.mamba2 import Mamba2Kind, Mamba2Layer
from dynamax_lm.decoders.parallel import ParallelKind, ParallelLayer
from dynamax_lm.decoders.recurrent_layer import RecurrentKind
from dynamax_lm.decoders.scaling import Scaling
from dynamax_lm.decoders.shared_block import SharedBlockLayer, SharedKind
from dynamax_lm.decoders.transformers_kernels import best_kernels


class FamilyStack(Decoder):
    """A causal language model of the table, whole or inside a multimodal wrapper.

    Args:
        model: the loaded model, in evaluation mode.

    Attributes:
        decoder: the text model without its vocabulary head.
        family: its row.
    """

    def __init__(self, model: Any) -> None:
        check_unaltered(model)
        self.family, config = text_decoder(model.config)
        names = self.family.modules
        self.decoder = model.get_submodule(names.base)
        arithmetic = Arithmetic()
        super().__init__(
            _Layers(self.family, config, self.decoder, arithmetic).build(),
            embedding=getattr(self.decoder, names.embedding),
            norm=getattr(self.decoder, names.norm),
            head=LinearPlace(model, "lm_head"),
            vocab_size=config.vocab_size,
            arithmetic=arithmetic,
            scaling=_scaling(self.family, config),
        )


class _Layers:
    """The adapters of a model; layers that are alike share their kind."""

    def __init__(self, family: Family, config: Any, base: Any, arithmetic: Arithmetic) -> None:
        self._family, self._config, self._base = family, config, base
        self._arithmetic = arithmetic
        device = getattr(base, family.modules.embedding).weight.device
        self._kernels = best_kernels(device)
        self._costs = layer_costs(family, config)
        self._kinds: dict[Any, Any] = {}

    def build(self) -> list[LayerAdapter]:
        """Bottom to top."""
        names = layers_of(self._family, self._config)
        return [self._layer(index, name) for index, name in enumerate(names)]

    def _layer(self, index: int, name: str) -> Any:
        module, costs = self._base.layers[index], self._costs[index]
        if name == "attention":
            return AttentionLayer(module, self._attention(index, costs), self._arithmetic)
        kind = self._shared((name, costs), lambda: self._kind(index, name, costs))
        adapters: dict[str, Any] = {
            "mamba2": Mamba2Layer,
            "mamba": Mamba1Layer,
            "attention+mamba2": ParallelLayer,
            "shared_attention+mamba2": SharedBlockLayer,
            "feed_forward": FeedForwardLayer,
        }
        return adapters[name](module, kind, self._arithmetic)

    def _shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """The kind of all layers with this key."""
        if key not in self._kinds:
            self._kinds[key] = make()
        return self._kinds[key]

    def _kind(self, index: int, name: str, costs: LayerCosts) -> Any:
        """A kind other than attention alone."""
        family, config = self._family, self._config
        if name == "feed_forward":
            assert family.alone is not None, "the row says how such a block is built"
            return FeedForwardKind(config, family.alone, costs)
        names: dict[str, Any] = {"block": family.block, "mixer": family.mixer}
        if name == "mamba":
            return RecurrentKind(config, self._kernels, costs=costs, key=MambaCosts.KEY, **names)
        if name == "mamba2":
            return Mamba2Kind(config, self._kernels, costs=costs, **names)
        attention, recurrent = costs.parts
        both = (
            self._attention(index, attention),
            Mamba2Kind(config, self._kernels, costs=recurrent, **names),
        )
        if name == "attention+mamba2":
            return ParallelKind(*both, costs)
        return SharedKind(*both, getattr(self._base, family.modules.embedding), costs)

    def _attention(self, index: int, costs: LayerCosts) -> AttentionKind:
        family, config = self._family, self._config
        window = window_of(family, config, index)
        rotary_type = rotary_type_of(family, config, index)
        rotary = None
        if rotates(family, config, index):
            rotary = getattr(self._base, family.modules.rotary)
        kind: AttentionKind = self._shared(
            ("attention", window, rotary_type, rotary is None, costs),
            lambda: AttentionKind(
                config,
                rotary,
                getattr(self._base, family.modules.embedding),
                block=family.block,
                names=family.attention,
                window=window,
                rotary_type=rotary_type,
                costs=costs,
            ),
        )
        return kind


def _scaling(family: Family, config: Any) -> Scaling:
    """The constants of a configuration."""
    names = family.scaling

    def read(name: str, default: float) -> float:
        value = getattr(config, name) if name else None
        return default if value is None else float(value)

    return Scaling(
        embeddings=read(names.embeddings, 1.0),
        logits=read(names.logits, 1.0),
        divisor=read(names.divisor, 1.0),
        cap=read(names.cap, 0.0),
        float32=names.float32,
    )
