"""The scheduler's laws: full steps first, no row twice, no row starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.engine.scheduler import Scheduler


@given(st.data(), st.integers(1, 5), st.integers(1, 8), st.integers(1, 30), st.integers(1, 40))
def test_every_row_runs_in_order_and_none_stands_for_long(
    data: st.DataObject, segments: int, batch_size: int, rows: int, longest_wait: int
) -> None:
    scheduler = Scheduler(segments, batch_size, longest_wait)
    place = dict.fromkeys(range(rows), 0)
    since = dict.fromkeys(range(rows), 0)
    for row in place:
        scheduler.ready(row, 0)
    for step in range(200):
        standing = [sum(at == segment for at in place.values()) for segment in range(segments)]
        chosen = scheduler.next()
        assert len(set(chosen.rows)) == len(chosen.rows) <= batch_size
        assert all(place[row] == chosen.segment for row in chosen.rows)
        others = {row: step - since[row] for row in place if row not in chosen.rows}
        late = [row for row, waited in others.items() if waited >= longest_wait]
        # those that stand too long run one segment a step, the oldest first
        assert all(step - since[row] <= longest_wait + rows for row in late)
        if not late and all(step - since[row] < longest_wait for row in chosen.rows):
            middle = max(standing[1:], default=0) or standing[0]
            assert len(chosen.rows) == min(
                batch_size, max(standing) if max(standing) >= batch_size else middle
            )
        assert chosen.rows == sorted(chosen.rows)
        for row in chosen.rows:
            on = chosen.segment + 1 < segments and data.draw(st.booleans())
            place[row] = chosen.segment + 1 if on else 0
            since[row] = step + 1
            scheduler.ready(row, place[row])


@given(st.integers(1, 4), st.integers(1, 4))
def test_the_deepest_of_equally_full_steps_comes_first(segments: int, batch_size: int) -> None:
    scheduler = Scheduler(segments, batch_size)
    for row in range(segments * batch_size):
        scheduler.ready(row, row // batch_size)
    order = [scheduler.next().segment for _ in range(segments)]
    assert order == list(reversed(range(segments)))
    assert not scheduler


def test_rows_that_are_put_back_run_next_with_others_of_their_segment() -> None:
    scheduler = Scheduler(2, 3)
    for row, segment in enumerate([0, 0, 0, 1, 1, 1]):
        scheduler.ready(row, segment)
    scheduler.ready(6, 0)
    deepest, step = scheduler.next(), scheduler.next()
    assert deepest.rows == [3, 4, 5]
    for row in deepest.rows:
        scheduler.ready(row, 1)
    scheduler.put_back(0, step.rows[1:])
    assert scheduler.next() == (0, [1, 2, 6])
