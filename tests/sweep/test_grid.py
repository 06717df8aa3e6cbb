"""Grids mean what they say, and wrong ones are one clear line."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.sweep.grid import read_grid, read_thresholds


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 40), st.sampled_from([2, 3]))
def test_a_range_has_both_ends_and_decimal_steps(
    start: int, extra: int, step: int, places: int
) -> None:
    unit = Decimal(1).scaleb(-places)
    first, last, by = start * unit, (start + extra) * unit, step * unit
    found = read_thresholds(f"{first}:{last}:{by}")
    assert found == [float(first + n * by) for n in range(extra // step + 1)]
    assert (found[-1] == float(last)) == (extra % step == 0)


def test_the_documented_range() -> None:
    assert read_thresholds("0.5:1.0:0.05") == [
        *(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
    ]
    assert read_thresholds("0.9,0,certified") == [0.9, 0, "certified"]


def test_several_axes_make_a_product_with_thresholds_fastest() -> None:
    points = read_grid("0.5,0.9", ["skipped_state=propagate,freeze", "exit_layers=[2,3],1+2"])
    assert [point.name for point in points[:4]] == [
        "skipped_state=propagate,exit_layers=2+3,threshold=0.5",
        "skipped_state=propagate,exit_layers=2+3,threshold=0.9",
        "skipped_state=propagate,exit_layers=1+2,threshold=0.5",
        "skipped_state=propagate,exit_layers=1+2,threshold=0.9",
    ]
    assert len({point.name for point in points}) == 8
    assert points[0].model_args({"pretrained": "tiny", "threshold": 0.1}) == {
        "pretrained": "tiny",
        "threshold": 0.5,
        "skipped_state": "propagate",
        "exit_layers": [2, 3],
    }


def test_names_are_safe_as_folders() -> None:
    (point,) = read_grid(None, ["heads=../../some where"])
    assert point.name == "heads=.._.._some_where"


@pytest.mark.parametrize(
    ("thresholds", "vary", "told"),
    [
        (None, [], "nothing to sweep"),
        ("0.5:1.0", [], "start:stop:step"),
        ("a:b:c", [], "not three numbers"),
        ("0:inf:0.1", [], "not finite"),
        ("0.9:0.5:0.1", [], "leads nowhere"),
        ("0.5:0.9:0", [], "leads nowhere"),
        ("0:1:0.000001", [], "larger step"),
        ("", [], "no value"),
        ("0.5,0.50", [], "occurs twice"),
        (None, ["confidence"], "name=value,value"),
        (None, ["=margin"], "name=value,value"),
        (None, ["confidence="], "no value"),
        (None, ["confidence=margin", "confidence=entropy"], "varied twice"),
        ("0.5", ["threshold=0.5,0.6"], "--thresholds varies it already"),
        (None, ["batch_size=1,2"], "changes no number"),
    ],
)
def test_a_wrong_grid_is_one_line(thresholds: str | None, vary: list[str], told: str) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        read_grid(thresholds, vary)
    assert "\n" not in str(caught.value)


def test_single_points_follow_the_product() -> None:
    found = read_grid("0.5,0.6", [], ["mode=full", "threshold=0,exit_layers=[4,8]"])
    assert [point.name for point in found] == [
        *("threshold=0.5", "threshold=0.6", "mode=full", "threshold=0,exit_layers=4+8"),
    ]
    assert [point.name for point in read_grid(None, [], ["mode=full"])] == ["mode=full"]


@pytest.mark.parametrize(
    ("single", "told"),
    [
        (["mode"], "name=value,name=value"),
        (["mode="], "name=value,name=value"),
        (["threshold=0,threshold=1"], "name=value,name=value"),
        (["device=cpu"], "changes no number"),
        (["threshold=0.5"], "occurs twice"),
    ],
)
def test_a_wrong_point_is_one_line(single: list[str], told: str) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        read_grid("0.5", [], single)
    assert "\n" not in str(caught.value)
