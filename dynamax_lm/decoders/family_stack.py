"""A decoder of any family of the table, over transformers' own modules."""

from __future__ import annotations

from typing import Any

from dynamax_lm.decoders.adapter import LayerAdapter
from dynamax_lm.decoders.arithmetic import Arithmetic
from dynamax_lm.decoders.attention import AttentionKind, AttentionLayer
from dynamax_lm.decoders.cpu.chosen_products import Slot
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.description import (
    Family,
    layers_of,
    rotary_type_of,
    rotates,
    window_of,
)
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.decoders.family_costs import layer_costs
from dynamax_lm.decoders.scaling import Scaling


class FamilyStack(Decoder):
    """A causal language model whose ``model_type`` is in the table.

    Args:
        model: the loaded model, in evaluation mode.
        trusted: whether every operation is transformers' own, to the last bit.

    Attributes:
        decoder: the model without its vocabulary head.
        family: its row.
    """

    def __init__(self, model: Any, *, trusted: bool = False) -> None:
        self.family = FAMILIES[model.config.model_type]
        names = self.family.modules
        self.decoder = getattr(model, names.base)
        arithmetic = Arithmetic(trusted)
        super().__init__(
            _Layers(self.family, model.config, self.decoder, arithmetic).build(),
            embedding=getattr(self.decoder, names.embedding),
            norm=getattr(self.decoder, names.norm),
            head=Slot(model, "lm_head"),
            vocab_size=model.config.vocab_size,
            arithmetic=arithmetic,
            scaling=_scaling(self.family, model.config),
        )


class _Layers:
    """The adapters of a model; layers that are alike share their kind."""

    def __init__(self, family: Family, config: Any, base: Any, arithmetic: Arithmetic) -> None:
        self._family, self._config, self._base = family, config, base
        self._arithmetic = arithmetic
        self._costs = layer_costs(family, config)
        self._kinds: dict[Any, Any] = {}

    def build(self) -> list[LayerAdapter]:
        """Bottom to top."""
        names = layers_of(self._family, self._config)
        return [self._layer(index, name) for index, name in enumerate(names)]

    def _layer(self, index: int, name: str) -> Any:
        module = self._base.layers[index]
        return AttentionLayer(module, self._attention(index), self._arithmetic)

    def _attention(self, index: int) -> AttentionKind:
        family, config = self._family, self._config
        window = window_of(family, config, index)
        rotary_type = rotary_type_of(family, config, index)
        rotary = None
        if rotates(family, config, index):
            rotary = getattr(self._base, family.modules.rotary)
        key = ("attention", window, rotary_type, rotary is None, self._costs[index])
        if key not in self._kinds:
            self._kinds[key] = AttentionKind(
                config,
                rotary,
                getattr(self._base, family.modules.embedding),
                block=family.block,
                names=family.attention,
                window=window,
                rotary_type=rotary_type,
                costs=self._costs[index],
            )
        kind: AttentionKind = self._kinds[key]
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
