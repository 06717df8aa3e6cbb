"""Annotated fields: what fits is taken, and anything else is one line that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.validation import (
    NOT_EMPTY,
    Count,
    OpenShare,
    Share,
    check_fields,
    matching,
    one_of,
    plain,
    read_fields,
)


@dataclass(frozen=True)
class Inner:
    share: Share

    def __post_init__(self) -> None:
        check_fields(self, "inner")

    @classmethod
    def from_json(cls, data: object) -> Inner:
        return cls(**read_fields(cls, data, "inner"))


@dataclass(frozen=True)
class Outer:
    count: Count
    open: OpenShare | None
    kind: Annotated[str, one_of("a", "b")]
    digest: Annotated[str, matching("[0-9a-f]{4}", "four digits")]
    names: Mapping[str, bool | None]
    inner: Annotated[tuple[Inner, ...], NOT_EMPTY]
    free: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_fields(self, "outer")


GOOD = Outer(3, 0.5, "a", "00ff", {"x": None}, (Inner(0.0), Inner(1)), {"y": [1]})


def test_plain_values_come_back() -> None:
    assert Outer(**read_fields(Outer, plain(GOOD), "outer")) == GOOD


WRONG: dict[str, tuple[Any, ...]] = {
    "count": (0, 1.0, True, "1", None),
    "open": (0, 1.0, float("nan"), float("inf"), 10**400, "x", False),
    "kind": ("c", 1, None),
    "digest": ("00f", "00FF", "00ff\n", 7),
    "names": ({"x": 1}, {1: True}, [], None),
    "inner": ((), (1,), [Inner(0.5)]),
    "free": ([], None, {1: 1}),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, some in WRONG.items() for v in some])
def test_what_does_not_fit_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"^outer {name}=.*: .* expected$") as caught:
        replace(GOOD, **{name: value})
    assert len(str(caught.value).splitlines()) == 1


@given(
    st.sampled_from(sorted(WRONG)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one),
    ),
)
def test_any_json_is_read_or_refused_in_one_line(name: str, value: Any) -> None:
    try:
        read = Outer(**read_fields(Outer, plain(GOOD) | {name: value}, "outer"))
    except SettingError as error:
        lines = str(error).splitlines()
        assert [len(line) < 400 for line in lines] == [True]
    else:
        assert plain(read)[name] == value


def test_missing_and_unknown_fields_are_named() -> None:
    data = plain(GOOD)
    with pytest.raises(SettingError, match="outer lacks 'kind'"):
        read_fields(Outer, {k: v for k, v in data.items() if k != "kind"}, "outer")
    with pytest.raises(SettingError, match="unknown fields 'kinds'"):
        read_fields(Outer, data | {"kinds": 1}, "outer")
    with pytest.raises(SettingError, match="no JSON object"):
        read_fields(Outer, [], "outer")
