"""Every value that is refused, in one line and before weights load."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings import OUR_NAMES
from tests.settings.settled import DOORS, Given, refused, settle


@pytest.mark.parametrize("value", [1.5, -0.1, "1.5", 2, "-1e-9"])
def test_thresholds_out_of_range(value: object) -> None:
    refused({"threshold": value}, "threshold", str(value), "[0, 1]")


def test_a_percentage_is_understood() -> None:
    refused({"threshold": 90}, "write 0.9")


@pytest.mark.parametrize(
    "value", ["abc", "", "nan", "inf", float("nan"), float("-inf"), True, False, [0.5], "0,9"]
)
def test_thresholds_that_are_no_numbers(value: object) -> None:
    refused({"threshold": value}, "threshold", "finite number", "[0, 1]")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "abc", "1.5", "True"])
@pytest.mark.parametrize("door", DOORS)
def test_bad_thresholds_through_text(value: str, door: str) -> None:
    refused(DOORS[door](f"threshold={value}"), "threshold")


@pytest.mark.parametrize("value", [0, "0", -1, "-1", [0, 8], "0+8", "[-8]", 0.0])
def test_layers_count_from_one(value: object) -> None:
    refused({"exit_layers": value}, "exit_layers", "layers count from 1")


@pytest.mark.parametrize("value", [32, "32", [8, 33], "8+99", "[40,8]"])
def test_exits_lie_below_full_depth(value: object) -> None:
    refused({"exit_layers": value}, "exit_layers", "32 layers", "1..31")
    refused({"exit_layers": value, "mode": "full"}, "exit_layers", "1..31")


def test_full_depth_is_named() -> None:
    refused({"exit_layers": 32}, "layer 32 is full depth")


@pytest.mark.parametrize("value", [[8, 8], "8+16+8", (8, "8"), [8, 8.0]])
def test_an_exit_is_named_once(value: object) -> None:
    refused({"exit_layers": value}, "exit_layers", "8 is named twice")


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "+", "8+", "+8+", "8++16", "8,,16", "[8", "8]", "[8;16]", "8-16", "8 16", "half",
        "all", 8.5, "8.5", [8.5], [True], True, False, [None], [[8]], float("nan"), [float("inf")],
        {"a": 1}, b"8", 1e200, 10**400, "[every_4]", ["every_4"], "every_",
        "every_x", "every_-4", "every_1.5",
    ],
)  # fmt: skip
def test_exits_that_are_no_layers(value: object) -> None:
    refused({"exit_layers": value}, "exit_layers", "latter_half")


@pytest.mark.parametrize("value", [[], (), set(), "[]", "()", "[ ]"])
def test_no_exit_at_all(value: object) -> None:
    refused({"exit_layers": value}, "exit_layers", "mode=full")


def test_a_step_is_at_least_one() -> None:
    refused({"exit_layers": "every_0"}, "every_0", "at least 1")


@pytest.mark.parametrize(
    ("value", "right"),
    [("latterhalf", "latter_half"), ("latter-half", "latter_half"), ("every-4", "every_4")],
)
def test_a_rule_misspelt(value: str, right: str) -> None:
    refused({"exit_layers": value}, f"did you mean {right}?")


def test_one_layer_leaves_no_room() -> None:
    refused({}, "1 layer", "mode=full", n_layers=1)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("confidence", "top-prob", "top_prob"),
        ("confidence", "topprob", "top_prob"),
        ("confidence", "Entropy", "entropy"),
        ("skipped_state", "propogate", "propagate"),
        ("mode", "exits", "exit"),
    ],
)
def test_names_misspelt(name: str, value: str, right: str) -> None:
    refused({name: value}, name, value, f"did you mean {right}?")


@pytest.mark.parametrize("name", ["confidence", "skipped_state", "mode"])
@pytest.mark.parametrize("value", ["", "luck", 3, True, 0.5, ["exit"], {"a": "b\nc"}])
def test_names_unknown(name: str, value: object) -> None:
    refused({name: value}, name, "choose one of")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("heads", True),
        ("heads", ""),
        ("confidence", "head"),
        ("threshold", "certified"),
    ],
)
def test_what_comes_later_is_refused_by_name(name: str, value: object) -> None:
    refused({name: value}, name, str(value))


def test_states_that_an_architecture_cannot_have() -> None:
    refused({"skipped_state": "freeze"}, "silent hole", "copy_kv", architecture="attention")
    refused({"skipped_state": "copy_kv"}, "no K and V", "freeze", architecture="mamba2")


@pytest.mark.parametrize("form", [8, "8", 8.0])
def test_a_prompt_exit_is_a_layer_in_every_mode_but_lossless(form: object) -> None:
    for mode in ("exit", "full"):
        plain, early = settle({"mode": mode}), settle({"mode": mode, "prompt_exit": form})
        assert (plain.prompt_exit, early.prompt_exit) == (None, 8)
        assert early.describe() == plain.describe() | {"prompt_exit": 8}
        assert early.fingerprint_fields() == plain.fingerprint_fields() | {"prompt_exit": 8}
        assert settle({"mode": mode, "prompt_exit": 32}) == plain, "the last layer is none"
    refused({"mode": "lossless", "prompt_exit": form}, "prompt_exit=8", "lossless")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "some", [8], 33])
def test_prompt_exits_that_are_no_layer(value: object) -> None:
    refused({"prompt_exit": value}, "prompt_exit=", "layer")


@pytest.mark.parametrize("form", [8, "8", "every_16"])
def test_patience_needs_two_exits(form: object) -> None:
    refused({"confidence": "patience", "exit_layers": form}, "patience", "at least two")
    settle({"confidence": "patience", "exit_layers": "8+16"})


@pytest.mark.parametrize("value", ["yes", "", 2, -1, 0.5, "on", []])
def test_switches_that_are_neither(value: object) -> None:
    refused({"reference": value}, "reference", "true or false")


@pytest.mark.parametrize("value", ["", " ", 7, 1.5, True, [], b"x"])
def test_folders_that_are_none(value: object) -> None:
    refused({"trace_dir": value}, "trace_dir", "./trace")


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
anything = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(), scalars))


@given(st.dictionaries(st.sampled_from(sorted(OUR_NAMES)), anything), st.integers(1, 64))
def test_nothing_but_settings_or_one_clear_line(given: Given, n_layers: int) -> None:
    try:
        settings = settle(given, n_layers)
    except SettingError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
        assert len(line) < 400
        assert re.match(rf"({'|'.join(OUR_NAMES)})=", line)
    else:
        assert 0.0 <= settings.threshold <= 1.0
        assert list(settings.exit_layers) == sorted(set(settings.exit_layers))
        assert all(1 <= layer < n_layers for layer in settings.exit_layers)
        assert bool(settings.exit_layers) == (settings.mode == "exit")
