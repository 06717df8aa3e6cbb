"""Expected durations in words."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.durations import announcer, in_words, phases_in_words


@given(st.floats(0, 1e7))
def test_the_words_are_within_half_a_unit_of_the_seconds(seconds: float) -> None:
    said = in_words(seconds)
    if said == "under a minute":
        assert seconds < 60
        return
    found = re.fullmatch(r"about (\S+) (minutes?|hours)", said)
    assert found is not None, said
    unit = 3600 if found[2] == "hours" else 60
    assert abs(float(found[1]) * unit - seconds) <= max(0.5 * unit, 0.06 * seconds)
    assert (found[2] == "minute") == (found[1] == "1" and unit == 60)


def test_settings_multiply_the_seconds_of_one() -> None:
    said: list[str] = []
    announcer(said.append, 5)("Scoring for 7 requests", 60.0)
    announcer(said.append)("Scoring for 7 requests", 300.0)
    announcer(said.append)("Scoring for 7 requests", 20.0)
    assert said == [
        "Scoring for 7 requests under 5 settings: up to about 5 minutes",
        "Scoring for 7 requests: up to about 5 minutes",
        "Scoring for 7 requests: under a minute",
    ]


def test_phases_are_listed_with_their_sum() -> None:
    assert phases_in_words({"answers": 420.0, "steps": 20.0}) == (
        "answers about 7 minutes, steps under a minute; about 7 minutes in all"
    )
    assert phases_in_words({"answers": 29.0, "steps": 20.0}) == "under a minute in all"
