"""Heads accept a quantised copy of their backbone, say so, and refuse everything else."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.unembedding_sample import BLOCK, UnembeddingSample
from tests.builders import random_model
from tests.checkpoints import save_checkpoint
from tests.heads.builders import heads_config, heads_of
from tests.lm_requests import ours

BITS = (8, 4)


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Quantised in blocks of a row by their largest magnitude, in float16 steps, and read back."""
    pieces = [
        ((one / step.clamp_min(1e-12)).round() + 0.0) * step  # an integer has no negative zero
        for one in weight.split(BLOCK, dim=1)
        for step in [(one.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).half().float()]
    ]
    return torch.cat(pieces, dim=1)


def tiny(seed: int = 0) -> Any:
    """A model whose every sampled place is a weight of its own block."""
    return random_model("mistral", 4, seed=seed, hidden_size=64)


def sampled(model: Any, bits: int) -> ExitHeads:
    """Heads of this model, with a sample of its unembedding."""
    heads = heads_of(model, (1, 2), classifier="linear", classifier_width=64)
    weight = model.get_output_embeddings().weight
    record = UnembeddingSample.of(weight, bits).to_json()
    heads.config = replace(heads.config, unembedding_sample=record)
    return heads


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_quantised_copy_and_its_original_are_recognised(bits: int, dtype: torch.dtype) -> None:
    model = tiny()
    original = model.get_output_embeddings().weight.detach().clone()
    copy = rounded(original, bits)
    assert fingerprint(copy) != fingerprint(original)
    for trained_on, other in ((original, copy), (copy, original)):
        model.get_output_embeddings().weight.copy_(trained_on)
        heads = sampled(model, bits)
        own = heads.check_backbone(model.config, trained_on)
        assert own.kind == "equal"
        assert own.difference == 0.0
        found = heads.check_backbone(model.config, other.to(dtype))
        assert found.kind == "rounded"
        assert found.difference is not None
        assert 0 < found.difference < 1 / 2 ** (bits - 2)


@pytest.mark.parametrize("bits", BITS)
@torch.no_grad()
def test_weights_that_moved_further_are_refused(bits: int) -> None:
    model = tiny()
    weight = model.get_output_embeddings().weight
    heads = sampled(model, bits)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(weight.shape, generator=generator)
    step = weight.abs().max() / (2 ** (bits - 1) - 1)
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        heads.check_backbone(model.config, weight + step * noise)
    few = weight.clone()
    few[::8] *= -1  # as few rows of a tokenizer's additions
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        heads.check_backbone(model.config, few)


@torch.no_grad()
def test_a_tuned_original_is_told_from_the_original_by_a_small_share_of_a_step() -> None:
    model = tiny()
    original = model.get_output_embeddings().weight.detach().clone()
    model.get_output_embeddings().weight.copy_(rounded(original, 8))
    heads = sampled(model, 8)
    assert heads.check_backbone(model.config, original).kind == "rounded"
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(2))
    tuned = original + 0.002 * original.std() * noise
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        heads.check_backbone(model.config, tuned)


@pytest.mark.parametrize("bits", BITS)
def test_another_model_and_coarser_rounding_are_refused(bits: int) -> None:
    model = tiny()
    heads = sampled(model, bits)
    other = tiny(seed=1).get_output_embeddings().weight
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        heads.check_backbone(model.config, other)
    coarser = rounded(model.get_output_embeddings().weight.detach(), bits - 2)
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        heads.check_backbone(model.config, coarser)


def test_without_a_sample_a_copy_is_refused_as_before() -> None:
    model = tiny()
    heads = heads_of(model, (1, 2), classifier="linear", classifier_width=64)
    weight = model.get_output_embeddings().weight.detach()
    assert heads.check_backbone(model.config, weight).difference is None
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        heads.check_backbone(model.config, rounded(weight, 8))


def test_a_sample_changes_no_identity_and_survives_its_text() -> None:
    config = sampled(tiny(), 8).config
    assert replace(config, unembedding_sample=None).identity == config.identity
    again = HeadsConfig.from_json(config.to_json())
    assert again == config
    sample = again.sample()
    assert sample is not None
    assert sample.difference(tiny().get_output_embeddings().weight) == (True, 0.0)


def test_a_configuration_of_before_has_no_sample() -> None:
    given = json.loads(heads_config().to_json())
    for name in HeadsConfig.LATER:
        del given[name]
    assert HeadsConfig.from_json(json.dumps(given)) == heads_config()


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3},
        {"bits": True},
        {"values": "!"},
        {"values": "AAAA"},
        {"values": None},
        {"half_steps": "AAAA"},
        {"further": 1},
    ],
)
def test_a_damaged_sample_is_one_line(change: dict[str, Any]) -> None:
    config = sampled(tiny(), 8).config
    damaged = json.loads(config.to_json())
    damaged["unembedding_sample"] |= change
    with pytest.raises(SettingError, match="unembedding_sample") as caught:
        HeadsConfig.from_json(json.dumps(damaged))
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_on_a_copy_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "mistral")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    heads = heads_of(model, (1, 2), translator="low_rank")
    weight = model.get_output_embeddings().weight
    record = UnembeddingSample.of(weight, 8).to_json()
    heads.config = replace(heads.config, unembedding_sample=record)
    heads.save_pretrained(tmp_path / "heads")
    with torch.no_grad():
        weight.copy_(rounded(weight.detach(), 8))
    assert fingerprint(weight) != heads.config.fingerprint
    model.save_pretrained(checkpoint)
    with caplog.at_level(logging.WARNING, "lm_eval.dynamax_lm"):
        run = ours("mistral", checkpoint, heads=str(tmp_path / "heads"), threshold=0.5)
    lines = [one for one in caplog.messages if "quantisation" in one]
    assert len(lines) == 1
    block = run.get_model_info()["early_exit"]["heads"]
    assert block["backbone"] == "rounded"
    assert 0 < block["backbone_difference"] < 0.02
    run.change(threshold=0.7)  # nothing is said again
    assert len([one for one in caplog.messages if "quantisation" in one]) == 1


# --- weights in bfloat16 -------------------------------------------------------------------------


def test_rounded_heads_are_stored_in_bfloat16_and_compute_in_float32(tmp_path: Path) -> None:
    heads = heads_of(tiny(), (1, 2), classifier="ffn", translator="affine")
    heads.save_pretrained(tmp_path / "exact")
    heads.round_to("bfloat16")
    heads.save_pretrained(tmp_path / "small")
    again = ExitHeads.from_pretrained(tmp_path / "small")
    assert again.config == heads.config
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, heads.state_dict()[name])
    sizes = [(tmp_path / one / "model.safetensors").stat().st_size for one in ("exact", "small")]
    assert sizes[1] < 0.6 * sizes[0]
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "small" / "model.safetensors"
    ).read_bytes()


def test_numbers_that_the_format_lacks_are_not_written(tmp_path: Path) -> None:
    heads = heads_of(tiny(), (1, 2), translator="affine")
    heads.config = replace(heads.config, number_format="bfloat16")
    with pytest.raises(SettingError, match="round them first"):
        heads.save_pretrained(tmp_path / "heads")


def test_a_file_of_the_other_format_is_refused(tmp_path: Path) -> None:
    heads = heads_of(tiny(), (1, 2), translator="affine")
    heads.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"float32"', '"bfloat16"'))
    with pytest.raises(SettingError, match=r"torch\.bfloat16"):
        ExitHeads.from_pretrained(tmp_path)
