"""A draft's length follows what was accepted, and drafts that do not pay pause."""

from __future__ import annotations

from itertools import groupby

from dynamax_lm.engine.draft_costs import DraftCosts
from dynamax_lm.engine.draft_length import AUTO, DraftLength


def test_an_adapting_draft_grows_and_shrinks() -> None:
    length = DraftLength()
    first = length.now
    length.verified(first, first)
    assert length.now == first + 2
    length.verified(length.now, 1)
    assert length.now == first + 1
    for _ in range(50):
        length.verified(length.now, 0)
    assert length.now == 1
    fixed = DraftLength(3)
    fixed.verified(3, 0)
    assert fixed.now == 3


def test_drafts_that_do_not_pay_pause_and_are_tried_again() -> None:
    """A pause has no drafts, ends, and is longer each time; a fixed length is the user's."""
    costs = DraftCosts(0.25, 0.05, 0.75)
    length, fixed, lengths = DraftLength(AUTO, costs), DraftLength(3, costs), []
    for _ in range(200):
        drafted = length.now
        lengths.append(drafted)
        length.verified(drafted, 0, inputs=drafted + 1, checks=drafted)
        fixed.verified(3, 0, inputs=4, checks=3)
        assert fixed.now == 3
    pauses = [len(list(some)) for drafts, some in groupby(lengths, bool) if not drafts]
    assert len(pauses) >= 3
    assert pauses[1] == 2 * pauses[0]
    paying = DraftLength(AUTO, costs)
    for _ in range(50):
        paying.verified(paying.now, paying.now, inputs=paying.now + 1, checks=paying.now)
        assert paying.now > 0
