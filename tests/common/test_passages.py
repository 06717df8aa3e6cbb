"""Documents that share something are one unit, and verdicts hold where documents depend so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from benchmarks.validity.passages import false_claims
from dynamax_lm.common.intervals import Bounds
from dynamax_lm.common.passages import Units, group, shared

keys = st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=20)


@given(keys)
def test_groups_are_the_connected_components(shares: list[set[int]]) -> None:
    named = [{str(key) for key in one} for one in shares]
    pairs = [(a, b) for a, x in enumerate(shares) for b, y in enumerate(shares) if x & y]
    rows, columns = zip(*pairs, strict=True)
    n = len(shares)
    matrix = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(n, n))
    count, labels = connected_components(matrix, directed=False)
    found = group(named)
    assert len(found) == count
    assert sorted(place for one in found for place in one) == list(range(n))
    for members in found:
        assert len({labels[place] for place in members}) == 1


def test_a_passage_ties_and_a_common_question_does_not() -> None:
    one = {"passage": "Once.", "question": "Why?", "id": 1}
    assert shared(one) & shared(one | {"passage": "once. ", "question": "Who?"})
    assert not shared(one) & shared(one | {"passage": "Twice."})
    assert shared({"question": "Why?"}) & shared({"question": "why?", "id": 2})
    assert not shared({"id": 1}) & shared({"id": 2})


@given(keys, st.data(), st.floats(-3, 3), st.floats(0, 4))
def test_values_of_units_have_the_mean_and_the_bounds_of_the_documents(
    shares: list[set[int]], data: st.DataObject, low: float, width: float
) -> None:
    units = Units.of(group([{str(key) for key in one} for one in shares]))
    inside = st.floats(low, low + width)
    count = st.lists(inside, min_size=len(shares), max_size=len(shares))
    values = np.array([data.draw(count), data.draw(count)])
    found = units.values(values)
    assert found.shape == (2, len(units.sizes))
    np.testing.assert_allclose(found.mean(1), values.mean(1), atol=1e-12)
    np.testing.assert_allclose(units.values(values[1]), found[1])
    limits = units.bounds(Bounds(low, low + width))
    assert limits.low - 1e-9 <= found.min()
    assert found.max() <= limits.high + 1e-9


@pytest.mark.parametrize("uneven", [False, True])
def test_false_verdicts_stay_rare_where_questions_share_passages(uneven: bool) -> None:
    """Nominally 2.5 % on each side; counted document by document a fifth is false."""
    grouped = false_claims(15, 20, 0.3, 200, by_passage=True, uneven=uneven)
    assert max(grouped) <= 0.05
    alone = false_claims(15, 20, 0.3, 200, by_passage=False, uneven=uneven)
    assert max(alone) >= 0.1, "the simulation sees the fault"
