"""Our model arguments through every door of lm-eval, and every refusal, before weights load."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import simple_parse_args_string
from transformers import PreTrainedModel

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings import (
    FROM_PRETRAINED_NAMES,
    OUR_NAMES,
    Architecture,
    ExitSettings,
    HeadsFacts,
    mend_split_lists,
    parse_settings,
    refuse_pickled_weights,
    refuse_unknown,
)

Given = dict[str, Any]


def keep_kwargs(**kwargs: object) -> Given:
    """What a model's constructor gets, as lm-eval calls it."""
    return kwargs


DOORS: dict[str, Callable[[str], Given]] = {
    "command line": key_val_to_dict,
    "string interface": simple_parse_args_string,
}


def settle(
    given: Given, n_layers: int = 32, architecture: Architecture = "attention"
) -> ExitSettings:
    raw = parse_settings(mend_split_lists(keep_kwargs(**given)))
    return raw.resolve(n_layers=n_layers, architecture=architecture)


def refused(
    given: Given, *words: str, n_layers: int = 32, architecture: Architecture = "attention"
) -> str:
    """The refusal of ``given``: one line that has every one of ``words``."""
    with pytest.raises(SettingError) as caught:
        settle(given, n_layers, architecture)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 400
    for word in words:
        assert word in line
    return line


# --- every form of every value -------------------------------------------------------------------


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


# --- every refusal -------------------------------------------------------------------------------


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


# --- names ---------------------------------------------------------------------------------------

HF_NAMES = frozenset(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}
ALLOWED = OUR_NAMES | HF_NAMES | FROM_PRETRAINED_NAMES


def test_every_right_name_passes() -> None:
    refuse_unknown(ALLOWED, ALLOWED)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("treshold", "threshold"),
        ("exit_layer", "exit_layers"),
        ("exits", "exit_layers"),
        ("confidance", "confidence"),
        ("batchsize", "batch_size"),
        ("skipped-state", "skipped_state"),
        ("torch_dtype", "dtype"),
        ("attn_implementaton", "attn_implementation"),
        ("load_in_8bit", "quantization_config"),
    ],
)
def test_a_stranger_is_refused_with_the_nearest_name(name: str, right: str) -> None:
    with pytest.raises(SettingError, match=right) as caught:
        refuse_unknown(["pretrained", name], ALLOWED)
    assert str(caught.value).startswith(name)
    assert len(str(caught.value).splitlines()) == 1


@given(st.text())
def test_strangers_are_refused_in_one_line(name: str) -> None:
    if name not in ALLOWED:
        with pytest.raises(SettingError) as caught:
            refuse_unknown([name], ALLOWED)
        assert len(str(caught.value).splitlines()) == 1


def test_the_options_are_from_pretraineds_own() -> None:
    """Each is named in the source of the installed transformers, and none is the hf model's."""
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    elsewhere = {"code_revision"}  # popped by the Auto classes
    later = {
        name for name in FROM_PRETRAINED_NAMES - elsewhere if not re.search(rf"\b{name}\b", source)
    }
    # taken by the model's own constructor, and documented there
    assert later <= {"attn_implementation", "experts_implementation"}
    assert not FROM_PRETRAINED_NAMES & OUR_NAMES
    assert not FROM_PRETRAINED_NAMES & HF_NAMES


@pytest.mark.parametrize("value", [False, "false", "False", 0, "0", "", "no"])
def test_pickled_weights_are_refused(value: object) -> None:
    with pytest.raises(SettingError, match="safetensors only"):
        refuse_pickled_weights({"use_safetensors": value})


@pytest.mark.parametrize("given", [{}, {"use_safetensors": True}, {"use_safetensors": "true"}])
def test_safetensors_are_welcome(given: Given) -> None:
    refuse_pickled_weights({**given, "use_safetensors": given.get("use_safetensors")})
    refuse_pickled_weights(given)


# --- what is written into results ----------------------------------------------------------------


def test_a_description_is_plain_json_and_can_be_given_back() -> None:
    given = {"exit_layers": "8+16", "threshold": "0.5", "trace_dir": "traces"}
    settings = settle(given)
    described = settings.describe()
    assert json.loads(json.dumps(described)) == described
    assert settle(dict(described)) == settings


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"exit_layers": 8}, True),
        ({"confidence": "margin"}, True),
        ({"threshold": 0.5}, True),
        ({"skipped_state": "copy_kv"}, True),
        ({"mode": "full"}, True),
        ({"reference": False}, True),
        ({"trace_dir": "elsewhere"}, False),
        ({"exit_layers": [28, 24, 20, 16]}, False),
        ({"threshold": "0.9"}, False),
    ],
)
def test_a_fingerprint_has_all_that_can_change_a_number(given: Given, changes: bool) -> None:
    assert (settle(given).fingerprint_fields() != settle({}).fingerprint_fields()) is changes


def test_at_full_depth_the_exits_settings_change_nothing() -> None:
    one, other = {"mode": "full"}, {"mode": "full", "threshold": 0.1, "exit_layers": 3}
    assert settle(one).fingerprint_fields() == settle(other).fingerprint_fields()


# --- trained heads -------------------------------------------------------------------------------

HEADS = HeadsFacts(name="my-heads", exit_layers=(4, 9, 20), has_classifier=True, fingerprint="abc")
CERTIFIED = replace(HEADS, certified=0.85, certified_confidence="head")


def with_heads(given: Given, heads: HeadsFacts | None) -> ExitSettings:
    return parse_settings(given).resolve(n_layers=32, architecture="attention", heads=heads)


def refused_with(heads: HeadsFacts | None, given: Given, *words: str) -> None:
    with pytest.raises(SettingError) as caught:
        with_heads(given, heads)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


def test_heads_bring_their_exits_and_their_classifier() -> None:
    settings = with_heads({"heads": "my-heads"}, HEADS)
    assert settings.exit_layers == (4, 9, 20)
    assert (settings.confidence, settings.threshold) == ("head", 0.9)
    assert settings.heads == "my-heads"
    silent = with_heads({}, replace(HEADS, has_classifier=False))
    assert (silent.confidence, silent.exit_layers) == ("top_prob", (4, 9, 20))
    assert with_heads({"confidence": "margin"}, HEADS).confidence == "margin"


def test_exits_are_chosen_among_those_of_the_heads() -> None:
    assert with_heads({"exit_layers": "20+4"}, HEADS).exit_layers == (4, 20)
    refused_with(
        HEADS, {"exit_layers": [4, 8]}, "exit_layers=[4, 8]", "my-heads", "8", "[4, 9, 20]"
    )
    refused_with(HEADS, {"exit_layers": "latter_half"}, "exit_layers=", "heads=none")


def test_a_certificate_names_the_threshold() -> None:
    assert with_heads({}, CERTIFIED).threshold == 0.85
    assert with_heads({"threshold": "certified"}, CERTIFIED).threshold == 0.85
    assert with_heads({"threshold": 0.5}, CERTIFIED).threshold == 0.5
    assert with_heads({"confidence": "margin"}, CERTIFIED).threshold == 0.9
    asked = {"confidence": "margin", "threshold": "certified"}
    assert with_heads(asked, CERTIFIED).threshold == 0.85


def test_what_heads_lack_is_refused() -> None:
    silent = replace(HEADS, has_classifier=False)
    refused_with(silent, {"confidence": "head"}, "confidence=head", "my-heads", "no classifier")
    refused_with(HEADS, {"threshold": "certified"}, "threshold=certified", "my-heads", "certify")


def test_a_certificate_that_cannot_be_believed_sets_no_threshold() -> None:
    broken = replace(CERTIFIED, certified=None, certificate_fault="made by an older version")
    assert with_heads({}, broken).threshold == 0.9
    assert with_heads({"threshold": 0.5}, broken).threshold == 0.5
    asked = {"threshold": "certified"}
    refused_with(broken, asked, "threshold=certified", "my-heads", "older version")


def test_heads_count_by_what_they_are_not_by_where_they_lie() -> None:
    here = with_heads({}, HEADS).fingerprint_fields()
    assert here == with_heads({}, replace(HEADS, name="elsewhere")).fingerprint_fields()
    assert here != with_heads({}, replace(HEADS, fingerprint="def")).fingerprint_fields()
