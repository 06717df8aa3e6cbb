"""The rule of catching up, against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core import catchup
from dynamax_lm.core.catchup import final_depths

DEPTHS = st.lists(st.integers(1, 6), max_size=40)


@given(used=DEPTHS)
def test_a_token_gets_as_deep_as_the_deepest_that_follows(used: list[int]) -> None:
    assert final_depths(used, 6) == [max(used[token:]) for token in range(len(used))]


@given(used=DEPTHS, most=st.integers(0, 5))
def test_a_crowd_is_run_to_the_end(used: list[int], most: int) -> None:
    """Step by step, as the engine does it."""
    depths: list[int] = []
    for one in used:
        if sum(depth < 6 for depth in depths) > most:
            depths = [6] * len(depths)
        depths = [max(depth, one) for depth in depths] + [one]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catchup, "MOST_PENDING", most)
        assert final_depths(used, 6) == depths
