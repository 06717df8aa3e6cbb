"""Every form of every value, through every door of lm-eval."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.settings import OUR_NAMES, Architecture, ExitSettings, mend_split_lists
from tests.settings.settled import DOORS, Given, refused, settle


def test_defaults() -> None:
    assert settle({}) == ExitSettings(
        exit_layers=(16, 20, 24, 28),
        confidence="top_prob",
        threshold=0.9,
        skipped_state="propagate",
        mode="exit",
        reference=True,
        heads=None,
        trace_dir=None,
    )


@pytest.mark.parametrize("missing", [None, "none", "None", " NONE "])
@pytest.mark.parametrize("name", sorted(OUR_NAMES))
def test_none_is_not_given(name: str, missing: object) -> None:
    assert settle({name: missing}) == settle({})


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("written", ["none", "None"])
@pytest.mark.parametrize("name", sorted(OUR_NAMES))
def test_none_is_not_given_through_text(name: str, written: str, door: str) -> None:
    assert settle(DOORS[door](f"{name}={written}")) == settle({})


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("quote", ["", "'"])
@given(layers=st.lists(st.integers(1, 31), min_size=1, max_size=5, unique=True))
def test_exit_layers_through_text(door: str, quote: str, layers: list[int]) -> None:
    for written in texts_of(layers):
        if quote and "," in written and door == "string interface":
            continue  # its commas split quoted text too, and the quotes stay on the pieces
        text = f"confidence=margin,exit_layers={quote}{written}{quote},reference=false"
        settings = settle(DOORS[door](text))
        assert settings.exit_layers == tuple(sorted(layers))
        assert settings.confidence == "margin"
        assert settings.reference is False


def texts_of(layers: list[int]) -> Iterable[str]:
    words = [str(layer) for layer in layers]
    yield "+".join(words)
    yield f"[{'+'.join(words)}]"
    yield f"[{','.join(words)}]"
    yield f"[{', '.join(words)}]"
    if len(layers) > 1:
        yield f"({','.join(words)})"


@given(layers=st.lists(st.integers(1, 31), min_size=1, max_size=5, unique=True))
def test_exit_layers_through_python_and_files(layers: list[int]) -> None:
    forms: list[object] = [layers, tuple(layers), set(layers), [str(layer) for layer in layers]]
    forms += [[float(layer) for layer in layers], "+".join(map(str, layers)), str(layers)]
    forms.append(", ".join(map(str, layers)))
    if len(layers) == 1:
        forms += [layers[0], str(layers[0]), float(layers[0]), tuple(layers), str(tuple(layers))]
    for form in forms:
        assert settle({"exit_layers": form}).exit_layers == tuple(sorted(layers))
    for dump, load in ((yaml.safe_dump, yaml.safe_load), (json.dumps, json.loads)):
        from_file = load(dump({"exit_layers": layers}))
        assert settle(from_file).exit_layers == tuple(sorted(layers))


def test_a_yaml_list_as_people_write_it() -> None:
    assert settle(yaml.safe_load("exit_layers: [8, '16', 24]")).exit_layers == (8, 16, 24)
    assert settle(yaml.safe_load("exit_layers:\n- 8\n- 16")).exit_layers == (8, 16)
    assert settle(yaml.safe_load("exit_layers: 8,16")).exit_layers == (8, 16)


def test_a_split_list_is_mended_in_any_order() -> None:
    given = {"24]": "", "16": "", "confidence": "margin", "exit_layers": "[8"}
    assert settle(given).exit_layers == (8, 16, 24)


@pytest.mark.parametrize(
    "given",
    [
        {"exit_layers": "[8", "16": "", "other": ""},
        {"exit_layers": "[8", "16": "", "24]": "x"},
        {"exit_layers": [8], "16": ""},
        {"16]": ""},
    ],
)
def test_what_is_no_split_list_is_left_alone(given: Given) -> None:
    assert mend_split_lists(given) == given


@given(n_layers=st.integers(2, 200), step=st.integers(1, 250))
def test_rules_place_exits_below_full_depth(n_layers: int, step: int) -> None:
    spread = settle({}, n_layers).exit_layers
    assert 1 <= len(spread) <= 4
    ideal = [Fraction(n_layers * eighths, 8) for eighths in (4, 5, 6, 7)]
    assert all(any(0 <= place - layer < 1 for place in ideal) for layer in spread) or n_layers < 4
    latter = settle({"exit_layers": "latter_half"}, n_layers).exit_layers
    assert latter == tuple(range(n_layers // 2, n_layers))
    assert set(spread) <= set(latter)
    if step < n_layers:
        every = settle({"exit_layers": f"every_{step}"}, n_layers).exit_layers
        assert every == tuple(layer for layer in range(1, n_layers) if layer % step == 0)
    else:
        refused({"exit_layers": f"every_{step}"}, f"every_{n_layers - 1}", n_layers=n_layers)


@pytest.mark.parametrize(
    ("n_layers", "exits"),
    [(2, (1,)), (3, (1, 2)), (4, (2, 3)), (16, (8, 10, 12, 14)), (64, (32, 40, 48, 56))],
)
def test_the_default_exits(n_layers: int, exits: tuple[int, ...]) -> None:
    assert settle({}, n_layers).exit_layers == exits


@given(st.floats(0, 1))
def test_thresholds(threshold: float) -> None:
    forms: list[object] = [threshold, str(threshold), f" {threshold!r} "]
    forms += [door(f"threshold={threshold!r}")["threshold"] for door in DOORS.values()]
    for form in forms:
        assert settle({"threshold": form}).threshold == threshold


@pytest.mark.parametrize("form", [0, 1, "0", "1", 0.0, 1.0, "1e0"])
def test_whole_thresholds(form: object) -> None:
    assert settle({"threshold": form}).threshold in {0.0, 1.0}


@pytest.mark.parametrize(
    "name", ["top_prob", "margin", "entropy", "saturation", "patience", "oracle"]
)
def test_confidences(name: str) -> None:
    assert settle({"confidence": name}).confidence == name
    assert settle({"confidence": f" {name} "}).confidence == name


@pytest.mark.parametrize(
    ("architecture", "state"),
    [
        ("attention", "propagate"),
        ("attention", "copy_kv"),
        ("mamba2", "propagate"),
        ("mamba2", "freeze"),
    ],
)
def test_skipped_states(architecture: Architecture, state: str) -> None:
    assert settle({"skipped_state": state}, architecture=architecture).skipped_state == state


@pytest.mark.parametrize("form", [True, "true", "True", "TRUE", "1", 1])
def test_switch_on(form: object) -> None:
    assert settle({"reference": form}).reference is True


@pytest.mark.parametrize("form", [False, "false", "False", "0", 0])
def test_switch_off(form: object) -> None:
    assert settle({"reference": form}).reference is False


@pytest.mark.parametrize("form", ["traces/here", Path("traces/here")])
def test_trace_folder(form: object) -> None:
    assert settle({"trace_dir": form}).trace_dir == "traces/here"


def test_full_depth_has_no_exits() -> None:
    assert settle({"mode": "full", "exit_layers": "8+16"}).exit_layers == ()
    assert settle({"mode": "full"}, n_layers=1).exit_layers == ()
    assert settle({"mode": "full", "exit_layers": "every_4"}, n_layers=4).exit_layers == ()
