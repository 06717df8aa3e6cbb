"""Which tokens are full depth's own by definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core.full_depth import by_definition, stepped
from dynamax_lm.core.trace import DraftRound

LAYERS = 4
DEPTHS = st.lists(st.integers(1, LAYERS), max_size=12)
STATES = st.sampled_from(["propagate", "copy_kv", "freeze", "recompute"])


@given(DEPTHS, STATES)
def test_up_to_a_rows_first_exit_every_token_is(depths: list[int], state: str) -> None:
    own = by_definition(depths, LAYERS, state)
    first = next((n for n, used in enumerate(depths) if used < LAYERS), len(depths))
    assert all(own[:first])
    assert len(own) == len(depths)


@given(DEPTHS, STATES)
def test_a_token_that_left_never_is(depths: list[int], state: str) -> None:
    own = by_definition(depths, LAYERS, state)
    assert not any(one for one, used in zip(own, depths, strict=True) if used < LAYERS)


@given(DEPTHS, STATES)
def test_after_an_exit_only_a_restored_state_is_full_depths(depths: list[int], state: str) -> None:
    own = by_definition(depths, LAYERS, state)
    first = next((n for n, used in enumerate(depths) if used < LAYERS), len(depths))
    later = [used == LAYERS and state == "recompute" for used in depths[first:]]
    assert own[first:] == later


def test_a_token_of_a_lossless_answer_is_where_it_ran_alone() -> None:
    drafted = DraftRound(start=1, inputs=3, drafted=(5, 6), depths=(2, 2), accepted=1)
    alone = [DraftRound(start, 1, (), (), 0) for start in (0, 3)]
    rejected = DraftRound(start=4, inputs=2, drafted=(7,), depths=(2,), accepted=0)
    found = stepped([alone[0], drafted, alone[1], rejected], 5)
    assert found == [True, False, False, True, False]
    assert stepped([], 2) == [False, False]
