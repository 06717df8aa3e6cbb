"""Other libraries' messages become one line, whatever they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import error_line, first_line, one_line


@given(st.text(), st.integers(1, 50))
def test_a_message_of_any_form_is_one_short_line(text: str, most: int) -> None:
    for line in (first_line(text, most), one_line(text, most), error_line(OSError(text), most)):
        assert len(line) <= most
        assert len(line.splitlines()) <= 1


@given(st.lists(st.text("ab \t"), min_size=1), st.text("ab", min_size=1))
def test_the_first_line_is_the_first_that_says_something(after: list[str], said: str) -> None:
    assert first_line("\n".join(["", "  ", f" {said} ", *after])) == said


@given(st.text(" \n\t\r"))
def test_an_empty_message_is_told_as_such(blank: str) -> None:
    assert first_line(blank) == "no message"
    assert one_line(blank) == ""


def test_an_error_is_named() -> None:
    assert error_line(KeyError("a\nb")) == r"KeyError: 'a\nb'"
