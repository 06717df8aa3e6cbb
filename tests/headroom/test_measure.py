"""Means are of documents, labels of tokens, and intervals of bounded documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.intervals import SHARE, Bounds
from dynamax_lm.common.passages import Units
from dynamax_lm.core.looks import FULL, Look
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.headroom.ceiling import Prices, Tokens
from dynamax_lm.headroom.documents import Document
from dynamax_lm.headroom.estimate import Estimate, estimate
from dynamax_lm.headroom.measure import KS, Headroom, measure
from dynamax_lm.headroom.verdict import judge
from tests.builders import make_config

COSTS = AttentionCosts.from_config(make_config("mistral", 4))


def documents(seed: int = 0, passages: int | None = None) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document(
            task="one" if number < 5 else "two",
            doc_id=number,
            ranks=rng.integers(0, 4, (number + 1, 3)).astype(np.int8),
            positions=np.arange(number + 1) + 9,
            prompts=rng.integers(0, 2, (number + 1, 0)).astype(bool),
            requests=((9, number + 1),),
            shared=frozenset({str(number if passages is None else number % passages)}),
        )
        for number in range(12)
    ]


def test_averages_are_of_documents_and_labels_of_tokens() -> None:
    some = documents()
    found = measure(
        some, COSTS, candidates=(1, 2, 3), default_exits=(2, 3), skipped_state="propagate"
    )
    assert [one.name for one in found] == ["one", "two", "all tasks"]
    pool = found[-1]
    assert (pool.documents, pool.tokens) == (12, sum(range(1, 13)))
    every = np.concatenate([one.ranks for one in some])
    for column, layer in enumerate(pool.layers):
        by_document = [float((one.ranks[:, column] == 1).mean()) for one in some]
        assert layer.agreement.value == pytest.approx(sum(by_document) / 12)
        assert layer.positive[1] == pytest.approx((every[:, column] == 1).mean())
        shares = [layer.positive[k] for k in KS]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx((every[:, column] > 0).mean())
    assert pool.free.exits == (1, 2, 3)
    assert pool.default.exits == (2, 3)
    assert pool.free.saved.value >= pool.checked.saved.value >= 0.0
    depths = [
        np.mean([next((i + 1 for i in range(3) if row[i] == 1), 4) for row in one.ranks])
        for one in some
    ]
    assert pool.free.layers_used.value == pytest.approx(np.mean(depths))


def _pool(passages: int | None) -> Headroom:
    some = documents(passages=passages)
    options: Any = {"candidates": (1, 2, 3), "default_exits": (2, 3), "skipped_state": "propagate"}
    return measure(some, COSTS, **options)[-1]


def test_documents_about_one_passage_are_one_unit() -> None:
    """The mean stays; the interval is that of the passages, and needs enough of them."""
    alone, paired, few = (_pool(passages) for passages in (None, 6, 3))
    assert (alone.units, paired.units, few.units) == (12, 6, 3)
    assert alone.counted == "12"
    assert paired.counted == "12 in 6 passages"
    for one, other in zip(_intervals(alone), _intervals(paired), strict=True):
        assert one.value == other.value
        assert None not in (one.low, one.high, other.low, other.high)
        assert (one.low, one.high) != (other.low, other.high)
    assert all((one.low, one.high) == (None, None) for one in _intervals(few))
    assert judge(few, 0.05).level == "undecided"
    assert "3 passages are too few" in judge(few, 0.05).reason


def _intervals(found: Headroom) -> list[Estimate]:
    ceilings = (found.free, found.checked, found.default)
    agreement = [layer.agreement for layer in found.layers]
    return [*agreement, *(one.saved for one in ceilings), *(one.layers_used for one in ceilings)]


def test_intervals_of_passages_hold_their_mean_where_those_of_documents_do_not() -> None:
    """Ten questions a passage that are all right or all wrong: ten times too many documents."""
    rng = np.random.default_rng(0)
    units = Units.by_keys([{str(number // 10)} for number in range(400)])
    missed = {"documents": 0, "passages": 0}
    for _ in range(200):
        values = np.repeat(rng.random(40) < 0.5, 10).astype(np.float64)
        for name, of in (("documents", None), ("passages", units)):
            found = estimate(values, SHARE, of)
            assert found.low is not None
            assert found.high is not None
            missed[name] += not found.low <= 0.5 <= found.high
    assert missed["passages"] <= 10
    assert missed["documents"] > 40


def test_a_cheap_look_is_billed_in_place_of_the_projection() -> None:
    """The depths of the oracle stay; rank 1 of width 16 saves more at every exit checked."""
    options = {"candidates": (1, 2, 3), "default_exits": (2, 3), "skipped_state": "propagate"}
    exact, cheap = (
        measure(documents(), COSTS, look=look, **options)[-1]  # type: ignore[arg-type]
        for look in (FULL, Look(rank=1))
    )
    assert cheap.free == exact.free
    assert cheap.default.layers_used == exact.default.layers_used
    assert cheap.default.saved.value > exact.default.saved.value


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=6, max_size=20),
    st.integers(0, 500),
)
def test_no_document_saves_more_or_less_than_its_bounds(
    ranks: list[list[int]], position: int
) -> None:
    tokens = Tokens(
        (1, 2, 3),
        np.asarray(ranks, dtype=np.int8),
        np.arange(len(ranks)) + position,
        np.arange(len(ranks)) // 2,
    )
    for exits in ((1, 2, 3), (2,), ()):
        for check in ("top_prob", "top_prob|rank:2", "oracle"):
            prices = Prices(COSTS, exits, check, "propagate")
            saved = prices.saved(tokens, tokens.oracle_depths(exits, 4))
            assert prices.bounds.low - 1e-12 <= saved.min()
            assert saved.max() <= prices.bounds.high + 1e-12


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=20))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    found = estimate(np.asarray(values), Bounds(-1.0, 1.0))
    assert found.low is not None
    assert found.high is not None
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9


def test_few_documents_have_no_interval() -> None:
    found = estimate(np.asarray([0.5]), SHARE)
    assert (found.value, found.low, found.high) == (0.5, None, None)
