"""The configuration of heads: every field there, none strange, none impossible."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads import HeadsConfig
from tests.heads.builders import heads_config, kinds

FULL = {
    "label": "top_k",
    "label_k": 5,
    "loss": {"name": "balanced", "decay": 0.9},
    "data": {"files": ["a.jsonl"], "tokens": 123},
    "training": {"steps": 10, "seed": 1},
    "calibration": {"3": {"scale": 1.25, "bias": -0.1}},
    "reliability": ({"exit": 3, "confidence": 0.5, "right": 0.4},),
    "certificate": {"threshold": 0.8, "risk": 0.05},
}


@given(kinds(), st.booleans())
def test_a_configuration_survives_its_text(options: dict[str, Any], full: bool) -> None:
    config = heads_config(**options, **(FULL if full else {}))
    assert HeadsConfig.from_json(config.to_json()) == config


FIRST = [field.name for field in fields(HeadsConfig) if field.name not in HeadsConfig.LATER]


@given(st.sampled_from(FIRST))
def test_a_missing_field_is_named(name: str) -> None:
    given = json.loads(heads_config(**FULL).to_json())
    del given[name]
    refused(json.dumps(given), name)


def test_a_strange_field_is_named() -> None:
    given = json.loads(heads_config().to_json()) | {"threshhold": 0.5}
    refused(json.dumps(given), "threshhold")


anything = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 40), st.floats(), st.text(max_size=5)
)
nested = st.one_of(anything, st.lists(anything, max_size=3), st.dictionaries(st.text(), anything))


@given(st.sampled_from([field.name for field in fields(HeadsConfig)]), nested)
def test_any_value_is_a_configuration_or_one_clear_line(name: str, value: Any) -> None:
    text = json.dumps(json.loads(heads_config().to_json()) | {name: value})
    try:
        config = HeadsConfig.from_json(text)
    except SettingError as error:
        line = str(error)
        assert len(line.splitlines()) == 1
        assert len(line) < 400
        assert "config" in line
    else:
        assert HeadsConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("text", ["", "[]", "{", "7", '"heads"', "\x00"])
def test_what_is_no_object_is_refused(text: str) -> None:
    refused(text, "config.json")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"exit_layers": ()}, "exit_layers"),
        ({"exit_layers": (0, 1)}, "1..5"),
        ({"exit_layers": (3, 6)}, "1..5"),
        ({"exit_layers": (3, 2)}, "ascending"),
        ({"exit_layers": (2, 2)}, "ascending"),
        ({"exit_layers": (True,)}, "exit_layers"),
        ({"classifier": "transformer"}, "mamba_depth"),
        ({"classifier_width": 17}, "width, 16"),
        ({"classifier": "linear", "classifier_width": 4}, "16"),
        ({"classifier": "ffn", "ffn_width": 0}, "ffn_width"),
        ({"classifier": "mamba", "head_dim": 3}, "head_dim"),
        ({"classifier": "mamba_depth", "state_size": 0}, "state_size"),
        ({"translator": "low_rank", "translator_rank": 0}, "translator_rank"),
        ({"label": "top_3"}, "top_k"),
        ({"schema": 2}, "schema 1"),
        ({"calibration": {"2": {"scale": 1.0, "bias": 0.0}}}, "no exit"),
        ({"calibration": {"3": {"scale": 1.0}}}, "bias"),
        ({"calibration": {"3": {"scale": -1.0, "bias": 0.0}}}, "above 0"),
        ({"calibration": {"3": {"scale": float("nan"), "bias": 0.0}}}, "finite"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingError) as caught:
        heads_config(**options)
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_identity_is_what_can_change_a_number() -> None:
    config = heads_config(**FULL)
    for same in ({"certificate": None}, {"reliability": ()}, {"data": {}}, {"training": {}}):
        assert replace(config, **same).identity == config.identity
    calibration = {"3": {"scale": 1.5, "bias": -0.1}}
    for other in ({"calibration": calibration}, {"weights_sha256": "1"}, {"translator": "affine"}):
        assert replace(config, **other).identity != config.identity


def refused(text: str, word: str) -> None:
    with pytest.raises(SettingError) as caught:
        HeadsConfig.from_json(text)
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
