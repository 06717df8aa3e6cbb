"""At which acceptance ``mode=lossless`` breaks even on the paper's checkpoints, by arithmetic.

    python -m benchmarks.lossless_7b

One row, one token at a time, is bound by memory bandwidth on a GPU and on a CPU alike: a pass costs
the bytes of the weights that it reads, and a verification pass over the few tokens of a draft costs
as much as over one, until its products are bound by arithmetic. That is so from
``FLOP/s / (byte/s) * bytes of a weight / 2`` tokens on. A drafted token reads k layers and the
vocabulary projection; a verification reads the other layers and the projection again; full depth
reads all layers and the projection. The break-even itself was not timed.
"""

from __future__ import annotations

from scipy.optimize import brentq

from benchmarks.ledger_7b import CODESTRAL, MISTRAL
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.core.costs import unembed_flops
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs

DRAFTS = (2, 4, 8)
MACHINES = {
    "GPU": 989e12 / 3.35e12 * 2 / 2,  # H100 SXM, bfloat16, by its data sheet
    "CPU": 72e9 / 18.8e9 * 4 / 2,  # one core of an AMD EPYC with AVX2, float32, measured
}
"""Tokens up to which a pass costs as much as over one."""


def layer_weights(costs: AttentionCosts | Mamba2Costs) -> float:
    """Weights that one layer reads for one token: half of its projections' FLOPs."""
    if isinstance(costs, AttentionCosts):
        return costs.projections / 2
    return (costs.state_projection + costs.gate_projection + costs.out_projection) / 2


def break_even(
    costs: AttentionCosts | Mamba2Costs, exit_layer: int, draft: int, at_once: float
) -> float | None:
    """The acceptance of each drafted token, independent of the others, at which nothing is gained.

    Args:
        costs: of the checkpoint.
        exit_layer: k, 1..L-1.
        draft: tokens of a draft, at least 1.
        at_once: tokens up to which a pass costs as much as over one.

    Returns:
        In [0, 1]; ``None`` where even a perfect draft is slower.
    """
    layer, vocabulary = layer_weights(costs), unembed_flops(costs) / 2
    drafting = draft * (exit_layer * layer + vocabulary) + exit_layer * layer
    verifying = (costs.n_layers - exit_layer) * layer + vocabulary
    verifying *= max(1.0, (draft + 1) / at_once)
    full = costs.n_layers * layer + vocabulary
    wanted = (drafting + verifying) / full  # tokens of a round

    def tokens(acceptance: float) -> float:
        return sum(acceptance**step for step in range(draft + 1))

    if tokens(1.0) < wanted:
        return None
    return float(brentq(lambda acceptance: tokens(acceptance) - wanted, 0.0, 1.0))


def main() -> None:
    """Print a table, one row for a checkpoint, an exit and a machine."""
    rows = []
    models = {"Mistral 7B v0.3": MISTRAL, "Codestral Mamba 7B": CODESTRAL}
    for name, costs in models.items():
        for quarter in (1, 2):
            exit_layer = costs.n_layers * quarter // 4
            for machine, at_once in MACHINES.items():
                found = [break_even(costs, exit_layer, draft, at_once) for draft in DRAFTS]
                cells = ["never" if one is None else f"{one:.0%}" for one in found]
                rows.append([name, f"{exit_layer} of {costs.n_layers}", machine, *cells])
    heads = [f"drafts of {draft}" for draft in DRAFTS]
    print(markdown_table(["checkpoint", "exit", "machine", *heads], rows))


if __name__ == "__main__":
    main()
