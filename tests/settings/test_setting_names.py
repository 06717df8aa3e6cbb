"""Names of model arguments: ours, lm-eval's and transformers' pass, strangers are refused."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings import (
    FROM_PRETRAINED_NAMES,
    OUR_NAMES,
    refuse_pickled_weights,
    refuse_unknown,
)
from tests.settings.settled import Given

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
