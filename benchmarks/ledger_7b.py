"""The ledger of both 7B models, from the numbers of their configurations alone: no weights.

Prints the tables of ``docs/ledger.md`` as Markdown:

    python benchmarks/ledger_7b.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynamax_lm.core.costs import LayerCosts, norm_flops, unembed_flops
from dynamax_lm.core.ledger import HeadCosts, Ledger
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs

MISTRAL = AttentionCosts(
    n_layers=32,
    width=4096,
    feedforward=14336,
    query_heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary=32768,
)
"""mistralai/Mistral-7B-v0.3: no sliding window."""

CODESTRAL = Mamba2Costs(
    n_layers=64,
    width=4096,
    inner=8192,
    heads=128,
    groups=8,
    state_size=128,
    kernel=4,
    vocabulary=32768,
)
"""mistralai/Mamba-Codestral-7B-v0.1: expand 2, 128 heads of 64."""

MODELS: dict[str, LayerCosts] = {"Mistral 7B v0.3": MISTRAL, "Codestral Mamba 7B": CODESTRAL}
STATES = (
    (MISTRAL, "propagate"),
    (MISTRAL, "copy_kv"),
    (CODESTRAL, "propagate"),
    (CODESTRAL, "freeze"),
)
NAMES = {id(costs): name for name, costs in MODELS.items()}
CONTEXTS = (1024, 8192)

Row = Sequence[str]


def amount(flops: int) -> str:
    """FLOPs with a unit prefix."""
    for unit, size in (("GF", 10**9), ("MF", 10**6), ("kF", 10**3)):
        if flops >= size:
            return f"{flops / size:.{1 if unit != 'GF' else 2}f} {unit}"
    return str(flops)


def share(part: int, whole: int) -> str:
    """``part`` in percent of ``whole``."""
    return f"{100 * part / whole:.1f} %"


def linear_layer(costs: LayerCosts) -> int:
    """One layer without the FLOPs that depend on its context."""
    return costs.projections if isinstance(costs, AttentionCosts) else costs.layer(0)


def classifiers(costs: LayerCosts) -> dict[str, int]:
    """Trained classifiers a published exit may have: hidden state in, two numbers out."""
    block = CODESTRAL.layer(0) - CODESTRAL.out_projection
    return {
        "linear": 2 * costs.width * 2,
        "Mamba-2 block, full width": block + 2 * CODESTRAL.inner * 2,
        "SwiGLU block, 14336 wide": 3 * 2 * costs.width * MISTRAL.feedforward,
    }


def parts() -> Iterator[Row]:
    """One layer, item by item, for one token."""
    yield "model", "item", "FLOPs", "share of the layer"
    attention = {
        "Q and output projections": MISTRAL.projections
        - MISTRAL.kv_projections
        - 6 * MISTRAL.width * MISTRAL.feedforward,
        "K and V projections": MISTRAL.kv_projections,
        "gate, up and down": 6 * MISTRAL.width * MISTRAL.feedforward,
    }
    mamba2 = {
        "in_proj, the gate's columns": CODESTRAL.gate_projection,
        "in_proj, columns of x, B, C and dt": CODESTRAL.state_projection,
        "depthwise convolution": CODESTRAL.convolution,
        "SSM state: decay, outer product, sum": CODESTRAL.advance,
        "SSM output": CODESTRAL.read_out,
        "out_proj": CODESTRAL.out_projection,
    }
    for (name, costs), items in zip(MODELS.items(), (attention, mamba2), strict=True):
        assert sum(items.values()) == linear_layer(costs)
        for item, flops in items.items():
            yield name, item, f"{flops:,}", share(flops, linear_layer(costs))


def magnitudes() -> Iterator[Row]:
    """The quantities that decide what an exit can save."""
    yield "one token, at position 0 unless stated", *MODELS
    models = tuple(MODELS.values())
    layers = [linear_layer(costs) for costs in models]
    emissions = [unembed_flops(costs) for costs in models]
    yield "one layer, no context", *map(amount, layers)
    yield "attention, per visible key and layer", amount(MISTRAL.context_per_key), "0"
    for context in CONTEXTS:
        term = context * MISTRAL.context_per_key
        relative = f"{amount(term)}, {share(term, layers[0])} of a layer"
        yield f"attention at {context} keys, per layer", relative, "0"
    full = [
        costs.n_layers * layer + out
        for costs, layer, out in zip(models, layers, emissions, strict=True)
    ]
    yield "all layers and one vocabulary projection, no context", *map(amount, full)
    for context in CONTEXTS:
        deep = [
            costs.n_layers * costs.layer(context - 1) + out
            for costs, out in zip(models, emissions, strict=True)
        ]
        yield f"the same at {context} keys", *map(amount, deep)
    yield "vocabulary projection", *map(_in_layers, emissions, layers)
    yield "norm of an exit", *(amount(norm_flops(costs)) for costs in models)
    states = [costs.skipped("propagate") for costs in models]
    yield (
        "`propagate`, per skipped layer",
        *(
            f"{amount(state)}, {share(state, layer)} of a layer"
            for state, layer in zip(states, layers, strict=True)
        ),
    )
    yield "`copy_kv`, `freeze`", "0", "0"
    checks = [norm_flops(costs) + unembed_flops(costs) for costs in models]
    for kind, kept in (("`propagate`", states), ("`copy_kv`, `freeze`", [0, 0])):
        pays = [
            f"{check / (layer - state):.2f}"
            for check, layer, state in zip(checks, layers, kept, strict=True)
        ]
        yield f"layers to skip for one vocabulary check to pay, {kind}", *pays
    for name in classifiers(MISTRAL):
        costs_of = [classifiers(costs)[name] for costs in models]
        yield f"classifier: {name}", *map(_in_layers, costs_of, layers)


def _in_layers(flops: int, layer: int) -> str:
    ratio = flops / layer
    return f"{amount(flops)} = {ratio:.2f} layers" if ratio >= 0.01 else amount(flops)


def savings() -> Iterator[Row]:
    """Net saving of an answer that exits at each default exit, and of one without exits."""
    yield (
        "model, skipped state, context",
        "exits",
        *(f"at exit {place}" for place in (1, 2, 3, 4)),
        "no exit",
    )
    for costs, state in STATES:
        exits = default_exits(costs)
        ledger = Ledger(costs, exit_layers=exits, skipped_state=state)
        for context in (0, 1023) if costs is MISTRAL else (0,):
            saved = [ledger.answer(context, [d]).flops_saved for d in (*exits, costs.n_layers)]
            label = f"{NAMES[id(costs)]}, `{state}`" + (f", {context + 1} keys" if context else "")
            yield label, "+".join(map(str, exits)), *(f"{100 * value:+.1f} %" for value in saved)


def default_exits(costs: LayerCosts) -> tuple[int, ...]:
    """Four, spread over the latter half."""
    return tuple(costs.n_layers * eighths // 8 for eighths in (4, 5, 6, 7))


def illustrations() -> Iterator[Row]:
    """Tokens that exit at three quarters of the depth, with trained classifiers."""
    yield (
        "exits over the latter half, classifier",
        "evaluated",
        "model, skipped state",
        "net saving",
    )
    for exits, evaluated, classifier in (
        (4, 2, "Mamba-2 block, full width"),
        (16, 8, "SwiGLU block, 14336 wide"),
    ):
        for costs, state in STATES:
            if state == "copy_kv":
                continue
            step = costs.n_layers // 2 // exits
            layers = range(costs.n_layers // 2 + step, costs.n_layers, step)
            ledger = Ledger(
                costs,
                exit_layers=tuple(layers),
                confidence="head",
                skipped_state=state,
                exit_extras=[HeadCosts(classifiers(costs)[classifier])] * len(layers),
            )
            saved = ledger.answer(0, [3 * costs.n_layers // 4]).flops_saved
            name = f"{NAMES[id(costs)]}, `{state}`"
            yield f"{exits}, {classifier}", str(evaluated), name, f"{100 * saved:+.1f} %"


def table(rows: Iterator[Row]) -> str:
    """A Markdown table whose first row is its head."""
    head, *body = [list(row) for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print every table."""
    for title, rows in (
        ("One layer", parts()),
        ("Magnitudes", magnitudes()),
        ("Net savings of `top_prob` at the default exits", savings()),
        ("Net savings with trained classifiers", illustrations()),
    ):
        print(f"### {title}\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
