"""Draws of units are random, seeded and whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.certify.units import draw
from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.decontamination import value_of


@given(st.lists(st.integers(1, 5), min_size=1, max_size=15), st.data(), st.integers(0, 99))
def test_a_draw_is_of_whole_units_and_of_the_size_asked_for(
    sizes: list[int], data: st.DataObject, seed: int
) -> None:
    total = sum(sizes)
    ends = np.cumsum(sizes)
    groups = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    limit = data.draw(st.one_of(st.none(), st.integers(1, total + 3), st.floats(0.01, 0.99)))
    drawn = draw(groups, limit, seed)
    expected = total if limit is None else min(total, int(np.ceil(total * limit)))
    if limit is not None and limit >= 1:
        expected = min(total, int(limit))
    assert len(drawn.documents) == expected
    assert list(drawn.documents) == sorted(set(drawn.documents))
    owner = {place: number for number, one in enumerate(groups) for place in one}
    seen: dict[int, int] = {}
    for document, unit in zip(drawn.documents, drawn.unit_of, strict=True):
        assert seen.setdefault(unit, owner[document]) == owner[document]
    assert sorted(seen) == list(range(len(seen)))
    cut = [unit for unit in seen if drawn.unit_of.count(unit) < len(groups[seen[unit]])]
    assert cut in ([], [len(seen) - 1]), "none but the last looked at is cut"
    assert drawn == draw(groups, limit, seed)


def test_other_seeds_draw_others() -> None:
    alone = [[place] for place in range(50)]
    draws = {draw(alone, 10, seed).documents for seed in range(20)}
    assert len(draws) > 15
    assert len({place for one in draws for place in one}) == 50


def test_a_named_field_must_be_there() -> None:
    assert value_of({"topic": " A "}, "topic") == value_of({"topic": "a"}, "topic")
    assert value_of({"topic": 1}, "topic") != value_of({"topic": 2}, "topic")
    with pytest.raises(SettingError, match="its fields are question"):
        value_of({"question": "?"}, "topic")
