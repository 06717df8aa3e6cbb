"""The embedded models, from their files alone: what a comparison of them rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.checkpoint import (
    ARCHITECTURES,
    ATTENTION,
    EMBEDDED,
    FAMILY,
    MAMBA2,
    TINY,
    Architecture,
    check_config,
    embedded_folder,
    embedded_model,
    resolve_name,
)
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.decoders.pretrained import load_pretrained
from dynamax_lm.heads import check_shape, read_config
from dynamax_lm.heads.shipped import DRAFTS, NAMES, shipped_folder
from dynamax_lm.models.lm import Dynamax


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_has_a_name_under_every_model_that_runs_it(name: str) -> None:
    config = AutoConfig.from_pretrained(embedded_folder(name))
    for architecture in ARCHITECTURES:
        assert resolve_name(f"{TINY}-{name}", architecture) == embedded_folder(name)
        if config.model_type in architecture.types:
            check_config(config, architecture)
        else:
            with pytest.raises(SettingError, match=config.model_type):
                check_config(config, architecture)
    check_config(config, FAMILY)


@pytest.mark.parametrize(
    ("given", "architecture", "model"),
    [
        ("tiny", ATTENTION, "mistral"),
        ("tiny", MAMBA2, "mamba"),
        ("tiny-hybrid", FAMILY, "hybrid"),
        ("tiny-other", FAMILY, None),
        ("hybrid", FAMILY, None),
        ("", FAMILY, None),
        (None, FAMILY, None),
    ],
)
def test_other_names_are_no_embedded_model(
    given: str | None, architecture: Architecture, model: str | None
) -> None:
    assert embedded_model(given, architecture) == model


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("given", [{}, {"dtype": "bfloat16"}])
def test_evaluation_and_training_take_the_same_number_format(
    name: str, given: dict[str, str]
) -> None:
    named = {"pretrained": f"{TINY}-{name}", **given}
    trained = load_pretrained(FAMILY.model, named, "cpu", tokenizer=False).model
    evaluated = Dynamax(**named, device="cpu", mode="full").model
    expected = getattr(torch, given.get("dtype", "float32"))
    assert trained.dtype == evaluated.dtype == expected


def test_they_read_the_same_tokens() -> None:
    files = [Path(embedded_folder(name)) / "tokenizer.json" for name in EMBEDDED]
    assert len({file.read_bytes() for file in files}) == 1


def test_the_hybrid_has_both_kinds_of_layer_below_its_first_exit() -> None:
    config = AutoConfig.from_pretrained(embedded_folder("hybrid"))
    depth = config.num_hidden_layers
    kinds = [FAMILIES[config.model_type].layer(config, index) for index in range(depth)]
    assert kinds == ["mamba2", "attention"] * (depth // 2)


@pytest.mark.parametrize("name", [name for name in NAMES if shipped_folder(name)])
def test_shipped_heads_are_of_the_model_that_they_are_named_after(name: str) -> None:
    folder = shipped_folder(name)
    assert folder is not None
    model = name.removeprefix(f"{TINY}-")
    heads = read_config(folder)
    check_shape(heads, AutoConfig.from_pretrained(embedded_folder(model)))
    assert heads.certificate is not None


@pytest.mark.parametrize("name", DRAFTS)
def test_shipped_drafting_translators_are_of_their_model(name: str) -> None:
    folder = shipped_folder(name)
    assert folder is not None
    heads = read_config(folder)
    model = name.removeprefix(f"{TINY}-").removesuffix("-drafts")
    check_shape(heads, AutoConfig.from_pretrained(embedded_folder(model)))
    assert not heads.has_classifier
    assert min(heads.exit_layers) < heads.n_layers // 4
