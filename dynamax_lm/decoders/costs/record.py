"""Costs as JSON values, with which a report bills a run again, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from dynamax_lm.core.costs import DecoderCosts, HybridCosts, LayerCosts
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.block import BlockCosts, FeedForward
from dynamax_lm.decoders.costs.mamba import MambaCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.costs.shared_block import SharedAttentionCosts, SharedBlockCosts

_KIND = "architecture"
_FLAT: dict[str, type[AttentionCosts | Mamba2Costs | MambaCosts]] = {
    **{one.KEY: one for one in (AttentionCosts, Mamba2Costs, MambaCosts)},
    "shared_attention": SharedAttentionCosts,
}
_BLOCKS: dict[str, type[BlockCosts]] = {"block": BlockCosts, "shared_block": SharedBlockCosts}
_NAMES: dict[type[LayerCosts], str] = {
    one: name for table in (_FLAT, _BLOCKS) for name, one in table.items()
}
_HYBRID = "hybrid"
_OUTSIDE = "outside"
"""A kind from outside the package, whose costs are those of its code; it has no record."""


def to_record(costs: DecoderCosts) -> dict[str, Any]:
    """The widths under the name of their kind."""
    if isinstance(costs, HybridCosts):
        kinds = list(dict.fromkeys(costs.kinds))
        layers = [kinds.index(kind) for kind in costs.kinds]
        return {
            _KIND: _HYBRID,
            "n_layers": costs.n_layers,
            "width": costs.width,
            "vocabulary": costs.vocabulary,
            "kinds": [to_record(kind) for kind in kinds],
            "layers": layers,
        }
    if isinstance(costs, BlockCosts):
        mixers = [to_record(mixer) for mixer in costs.mixers]
        return {_KIND: _NAMES[type(costs)], **asdict(costs), "mixers": mixers}
    if isinstance(costs, (AttentionCosts, Mamba2Costs, MambaCosts)):
        return {_KIND: _NAMES[type(costs)], **asdict(costs)}
    shape = {name: getattr(costs, name) for name in ("n_layers", "width", "vocabulary")}
    return {_KIND: _OUTSIDE, **shape}


def from_record(record: Mapping[str, Any]) -> DecoderCosts:
    """The costs that :func:`to_record` wrote.

    Raises:
        TypeError: a width is missing, unknown, or no count.
        ValueError: no such kind, one from outside the package, or layers of different widths.
    """
    written = dict(record)
    kind = written.pop(_KIND, None)
    if kind != _HYBRID:
        return _one(kind, written)
    kinds: Sequence[Mapping[str, Any]] = written.get("kinds") or ()
    layers: Sequence[Any] = written.get("layers") or ()
    known = [_one(one.get(_KIND), {k: v for k, v in one.items() if k != _KIND}) for one in kinds]
    if not layers or not all(type(one) is int and 0 <= one < len(known) for one in layers):
        raise ValueError("layers of no kind")
    return HybridCosts(tuple(known[one] for one in layers))


def _one(kind: object, written: dict[str, Any]) -> LayerCosts:
    """The costs of one kind of layer."""
    if kind in _BLOCKS:
        mixers, fed = written.pop("mixers", ()), written.pop("feed_forward", None)
        block: LayerCosts = _checked(
            _BLOCKS[str(kind)](
                **written,
                mixers=tuple(
                    _one(mixer.get(_KIND), {k: v for k, v in mixer.items() if k != _KIND})
                    for mixer in mixers
                ),
                feed_forward=None if fed is None else _checked(FeedForward(**fed)),
            )
        )
        return block
    if kind not in _FLAT:
        raise ValueError(f"no kind of layer {kind!r}")
    layer: LayerCosts = _checked(_FLAT[str(kind)](**written))
    return layer


def _checked(costs: Any) -> Any:
    """The costs, if every width is a count; those with defaults may be missing."""
    for field in fields(costs):
        value = getattr(costs, field.name)
        if field.name in {"mixers", "feed_forward"}:
            continue
        if type(value) is not int and not (value is None and field.default is None):
            raise TypeError(f"{field.name} is no count")
    return costs
