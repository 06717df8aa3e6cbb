"""The order of prompts: one header together, the longest first, and no more prompt tokens run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.engine.prefill import SHORTEST_PREFIX
from dynamax_lm.models.order import header_keys

HEADERS = [tuple(range(start, start + SHORTEST_PREFIX + start)) for start in (1, 5, 9)]


@st.composite
def prompts(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Some under each of three headers, some without any."""
    some = []
    for header in [*HEADERS, ()]:
        for _ in range(draw(st.integers(0, 9))):
            rest = draw(st.lists(st.integers(0, 3), min_size=1, max_size=40))
            some.append((*header, *rest))
    return draw(st.permutations(some))


@given(prompts(), st.integers(1, 4))
def test_large_groups_stand_together_and_all_else_by_length(
    some: list[tuple[int, ...]], batch: int
) -> None:
    keys = header_keys(some, [len(one) for one in some], batch)
    order = sorted(range(len(some)), key=lambda n: (keys[n], -len(some[n]), some[n]))
    large = set()
    for header in HEADERS:
        places = [p for p, n in enumerate(order) if some[n][: len(header)] == header]
        if len(places) >= 2 * batch:
            assert places == list(range(places[0], places[0] + len(places)))
            large |= {order[place] for place in places}
    rest = [len(some[n]) for n in order if n not in large]
    assert rest == sorted(rest, reverse=True)
    if order:
        longest = max(len(one) for one in some)
        assert len(some[order[0]]) == longest, "a first batch shows what memory is needed"
    if not large:
        assert order == sorted(range(len(some)), key=lambda n: (-len(some[n]), some[n]))


def test_two_headers_whose_lengths_interleave_are_each_run_once() -> None:
    """Without groups every batch would have both headers, and share nothing."""
    batch = 4
    some = [(*HEADERS[number % 2], *range(100, 120 + number)) for number in range(32)]
    keys = header_keys(some, [len(one) for one in some], batch)
    order = sorted(range(len(some)), key=lambda n: (keys[n], -len(some[n]), some[n]))
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    assert all(len({number % 2 for number in one}) == 1 for one in batches)
