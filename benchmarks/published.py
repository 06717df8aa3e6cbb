"""Early exit in published checkpoints, from their configurations alone: no weights.

The configurations' numbers are in ``published.json``, each with the checkpoint it describes.
Prints the tables of ``docs/ledger.md``, ``docs/cheap-look.md`` and ``docs/models.md`` as Markdown:

    python benchmarks/published.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from dynamax_lm.core.costs import (
    DecoderCosts,
    HybridCosts,
    norm_flops,
    skipped_states,
    unembed_flops,
)
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.looks import FULL, Look, looking
from dynamax_lm.decoders.costs.block import BlockCosts
from dynamax_lm.decoders.description import Family, layers_of
from dynamax_lm.decoders.families import FAMILIES, WRAPPERS
from dynamax_lm.decoders.family_costs import decoder_costs
from dynamax_lm.settings.exits import Spread

CONTEXT = 1024
"""Tokens before and with the one that is billed."""

REFINED, LISTED = 256, 1024
"""Tokens that are refined, and those of a list, in the table of looks."""

CHEAPEST = {"attention": "copy_kv", "mamba2": "freeze", "mamba": "freeze"}
"""Policies for which a skipped layer costs nothing."""

_MIXED: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9]},
    "granitemoehybrid": {
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
    },
}
"""Where a default configuration has one kind of layer, and published ones two."""

Row = Sequence[str]


def published() -> dict[str, DecoderCosts]:
    """The costs of every checkpoint of the file."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return {name: _costs(values) for name, values in json.loads(text).items()}


def _costs(values: dict[str, Any]) -> DecoderCosts:
    numbers = {
        name: value for name, value in values.items() if name not in {"source", "model_type"}
    }
    config = AutoConfig.for_model(values["model_type"], **numbers)
    return decoder_costs(FAMILIES[values["model_type"]], config)


def cheapest(costs: DecoderCosts) -> str:
    """The policy that costs nothing, for each kind of layer."""
    kinds = dict.fromkeys(part.KEY for part in costs.parts)
    names = {CHEAPEST[kind] for kind in kinds}
    return (
        names.pop() if len(names) == 1 else "+".join(f"{kind}:{CHEAPEST[kind]}" for kind in kinds)
    )


def where_exits_pay() -> Iterator[Row]:
    """One exit at half the depth, checked by a vocabulary projection, at ``CONTEXT`` keys."""
    yield (
        "checkpoint",
        "layers",
        "vocabulary",
        "one check, in layers",
        "one check, of a token",
        "half depth, `propagate`",
        "half depth, free state",
        "no exit",
    )
    for name, costs in published().items():
        layers, position = costs.n_layers, CONTEXT - 1
        check = norm_flops(costs) + unembed_flops(costs)
        body = costs.layers(position, 0, layers)
        saved = [_saved(costs, state, layers // 2) for state in ("propagate", cheapest(costs))]
        yield (
            name,
            str(layers),
            f"{costs.vocabulary:,}",
            f"{check * layers / body:.2f}",
            f"{100 * check / (body + check):.1f} %",
            *(f"{100 * share:+.1f} %" for share in saved),
            f"{100 * _saved(costs, 'propagate', layers):+.1f} %",
        )


def _saved(costs: DecoderCosts, state: str, depth: int) -> float:
    """Net share of a token's FLOPs saved by exiting after ``depth`` layers, or by running all."""
    ledger = Ledger(costs, exit_layers=(costs.n_layers // 2,), skipped_state=state)
    return ledger.answer(CONTEXT - 1, [depth]).flops_saved


def what_looks_cost() -> Iterator[Row]:
    """One look at the vocabulary in layers, and what the default exits save and cost with it.

    Factors have a sixteenth of the width D; they are refined, or draw a list for later exits.
    """
    yield (
        "checkpoint",
        "vocabulary",
        "full look, in layers",
        "refined",
        "later, by list",
        "no exit: full",
        "refined",
        "list",
        "second exit: full",
        "refined",
        "list",
    )
    for name, costs in published().items():
        layers, position = costs.n_layers, CONTEXT - 1
        layer = costs.layers(position, 0, layers) / layers
        rank = costs.width // 16
        looks = [FULL, Look(rank, refine=REFINED), Look(rank, shortlist=LISTED)]
        flops = [look.flops(1, costs.width, costs.vocabulary) for look in looks]
        exits = Spread().place(layers)
        yield (
            name,
            f"{costs.vocabulary:,}",
            *(f"{(norm_flops(costs) + one) / layer:.2f}" for one in flops),
            *(f"{100 * _looked(costs, exits, look, layers):+.1f} %" for look in looks),
            *(f"{100 * _looked(costs, exits, look, exits[1]):+.1f} %" for look in looks),
        )


def _looked(costs: DecoderCosts, exits: Sequence[int], look: Look, depth: int) -> float:
    """Net share of a token's FLOPs saved by exiting after ``depth`` layers under a look."""
    measure = looking("top_prob", look.name)
    ledger = Ledger(costs, exit_layers=exits, confidence=measure)
    return ledger.answer(CONTEXT - 1, [depth]).flops_saved


def what_works() -> Iterator[Row]:
    """By ``model_type``: kinds of layers, what sets them apart, and the skipped-state policies.

    A multimodal wrapper has the layers and policies of its text decoders.
    """
    yield "`model_type`", "layers", "what sets it apart", "`skipped_state`"
    for model_type in sorted([*FAMILIES, *WRAPPERS]):
        texts = WRAPPERS.get(model_type, ())
        family = FAMILIES[texts[0] if texts else model_type]
        config = AutoConfig.for_model(family.model_type, **_MIXED.get(family.model_type, {}))
        costs = decoder_costs(family, config)
        own = [*marks(family), *(["mixture of experts"] if has_experts(costs) else [])]
        if texts:
            own = [f"multimodal; runs its text decoder, {' or '.join(f'`{one}`' for one in texts)}"]
        kinds = dict.fromkeys(layers_of(family, config))
        policies = skipped_states(*dict.fromkeys(type(part) for part in costs.parts))
        by_kind = ", by kind" if len({part.KEY for part in costs.parts}) > 1 else ""
        yield (
            f"`{model_type}`",
            ", ".join(kind.replace("_", "-") for kind in kinds),
            ", ".join(own),
            ", ".join(f"`{one}`" for one in policies) + by_kind,
        )


def has_experts(costs: DecoderCosts) -> bool:
    """Whether some feed-forward module is a mixture of experts."""
    kinds = costs.kinds if isinstance(costs, HybridCosts) else (costs,)
    found = (kind.feed_forward for kind in kinds if isinstance(kind, BlockCosts))
    return any(fed is not None and fed.experts for fed in found)


def marks(family: Family) -> Iterator[str]:
    """What a description has beyond Llama's."""
    block, attention = family.block, family.attention
    if block.out_norm:
        yield "norms before and after" if block.norm else "norms after"
    if attention.norms:
        yield "query and key norms" if attention.norms == "head" else "query and key norms, whole"
    if attention.fused:
        yield "fused projections"
    if attention.soft_cap:
        yield "soft caps"
    if attention.position_scale:
        yield "queries scaled with the position"
    if block.residual or attention.key_multiplier:
        yield "multipliers"
    if family.windows != "none":
        yield "windows" if family.windows == "all" else "windows by layer"
    if family.rotary == "by_type":
        yield "rotary angles by layer"
    kinds = layers_by_default(family)
    if any("shared" in kind for kind in kinds):
        yield "attention blocks shared by layers, which read the embeddings"
    if family.rotary in {"some", "none"} and any("attention" in kind for kind in kinds):
        yield "layers without rotary angles" if family.rotary == "some" else "no rotary angles"


def layers_by_default(family: Family) -> set[str]:
    """Kinds of layer of the default configuration."""
    return set(layers_of(family, AutoConfig.for_model(family.model_type)))


def table(rows: Iterator[Row]) -> str:
    """A Markdown table whose first row is its head."""
    head, *body = [list(row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def main() -> None:
    """Print the tables."""
    print(f"### Where early exit pays\n\n{table(where_exits_pay())}\n")
    print(f"### What a look costs\n\n{table(what_looks_cost())}\n")
    print(f"### What works\n\n{table(what_works())}")


if __name__ == "__main__":
    main()
