"""Oracle depths by brute force, prices by the ledger."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.costs import DecoderCosts, HybridCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.trace import FlopsBreakdown
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.headroom.ceiling import Prices, Tokens, choose_exits
from tests.builders import make_config

LAYERS = 6
CANDIDATES = (1, 2, 3, 4, 5)


def costs_of(kind: str) -> DecoderCosts:
    if kind == "hybrid":
        mamba2 = make_config("mamba2", 1, vocab_size=7)
        wide = {"hidden_size": mamba2.hidden_size, "num_attention_heads": 1, "head_dim": 4}
        mistral = make_config("mistral", 1, vocab_size=7, num_key_value_heads=1, **wide)
        kinds = Mamba2Costs.from_config(mamba2), AttentionCosts.from_config(mistral)
        return HybridCosts(tuple(kinds[layer % 2] for layer in range(LAYERS)))
    if kind == "mamba2":
        return Mamba2Costs.from_config(make_config("mamba2", LAYERS, vocab_size=7))
    return AttentionCosts.from_config(
        make_config("mistral", LAYERS, vocab_size=7, sliding_window=5)
    )


@st.composite
def token_sets(draw: Any) -> Tokens:
    """A few documents of a few tokens, exits agreeing more often the deeper they are."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = sum(lengths)
    agrees = rng.random((count, len(CANDIDATES))) < np.linspace(0.2, 0.9, len(CANDIDATES))
    ranks = np.where(agrees, 1, rng.integers(0, 11, agrees.shape)).astype(np.int8)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return Tokens(CANDIDATES, ranks, rng.integers(0, 12, count), owners)


@given(token_sets(), st.sets(st.sampled_from(CANDIDATES)).map(sorted))
def test_the_oracle_leaves_at_the_first_exit_that_agrees(tokens: Tokens, exits: list[int]) -> None:
    expected = []
    for ranks in tokens.ranks:
        depth = LAYERS
        for layer in exits:
            if ranks[layer - 1] == 1:
                depth = layer
                break
        expected.append(depth)
    assert tokens.oracle_depths(exits, LAYERS).tolist() == expected


@given(
    token_sets(),
    st.sampled_from(
        [
            ("mistral", "propagate"),
            ("mistral", "copy_kv"),
            ("mamba2", "freeze"),
            ("hybrid", "propagate"),
        ]
    ),
    st.sampled_from(["oracle", "top_prob", "saturation"]),
    st.sets(st.sampled_from(CANDIDATES)).map(sorted),
)
def test_a_ceiling_is_what_the_ledger_bills(
    tokens: Tokens, kind: tuple[str, str], confidence: str, exits: list[int]
) -> None:
    costs = costs_of(kind[0])
    options: dict[str, Any] = {"exit_layers": exits, "confidence": confidence}
    ledger = Ledger(costs, skipped_state=kind[1], **options)
    depths = tokens.oracle_depths(exits, LAYERS)
    expected = []
    for document in range(tokens.owners[-1] + 1):
        bill = FlopsBreakdown()
        for number in np.flatnonzero(tokens.owners == document):
            bill += ledger.answer(int(tokens.positions[number]), [int(depths[number])])
        expected.append(bill.flops_saved)
    saved = Prices(costs, exits, confidence, kind[1]).saved(tokens, depths)
    assert saved.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=25)
@given(token_sets(), st.sampled_from(["mistral", "mamba2", "hybrid"]))
def test_chosen_exits_pay_for_their_checks(tokens: Tokens, kind: str) -> None:
    costs = costs_of(kind)

    def saving(exits: tuple[int, ...]) -> float:
        depths = tokens.oracle_depths(exits, LAYERS)
        return float(Prices(costs, exits, "top_prob", "propagate").saved(tokens, depths).mean())

    chosen = [choose_exits(tokens, costs, "top_prob", "propagate", most) for most in range(4)]
    assert chosen[0] == ()
    best_single = max(saving(exits) for exits in [(), *combinations(CANDIDATES, 1)])
    assert saving(chosen[1]) == best_single
    assert all(saving(few) <= saving(more) for few, more in pairwise(chosen))
    best_pair = max(saving(exits) for exits in combinations(CANDIDATES, 2))
    assert saving(chosen[2]) <= max(best_pair, best_single)
