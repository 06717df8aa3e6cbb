"""Weights that are packed for the CPU: whose, how the choice is recorded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.cpu import chosen_products as chosen
from dynamax_lm.decoders.cpu import product_choice as choice
from dynamax_lm.decoders.cpu import products
from tests.checkpoints import save_checkpoint
from tests.lm_requests import PROMPTS, ours, texts


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_checkpoint_is_packed_and_somebody_elses_model_is_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers, and the checkpoint can be saved again as it was."""
    folder = save_checkpoint(tmp_path / "model", kind)
    plain = ours(kind, folder, products="plain")
    monkeypatch.setattr(chosen, "_WORTH_MEASURING", 0)
    packed = ours(kind, folder, products="packed")
    answers = [one.generate_until(texts(PROMPTS), disable_tqdm=True) for one in (packed, plain)]
    assert answers[0] == answers[1]
    assert (
        packed.get_model_info()["model_num_parameters"]
        == (plain.get_model_info()["model_num_parameters"])
    )
    packed.model.save_pretrained(tmp_path / "again")
    with safe_open(str(tmp_path / "again" / "model.safetensors"), "pt") as again:
        for name, one in plain.model.state_dict().items():
            assert torch.equal(again.get_tensor(name), one)
    held = plain.model
    type(plain)(pretrained=held, tokenizer=plain.tokenizer)
    for model, has in [(packed.model, True), (held, False), (plain.model, False)]:
        assert any(type(part) is products.Packed for part in model.modules()) is has


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_measured_choice_is_on_record_and_not_in_the_fingerprint(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a second model measure again; what was asked for parts two runs."""
    monkeypatch.delenv("DYNAMAX_LM_PRODUCTS", raising=False)
    folder = save_checkpoint(tmp_path / "model", kind)
    before = ours(kind, folder)
    monkeypatch.setattr(chosen, "_WORTH_MEASURING", 0)
    monkeypatch.setattr(chosen, "_known", {})
    first = ours(kind, folder, batch_size=3)
    monkeypatch.setattr(chosen, "choose", None)
    again = ours(kind, folder, batch_size=3)
    assert before.fingerprint == first.fingerprint == again.fingerprint
    blocks = [one.get_model_info()["early_exit"]["products"] for one in (first, again)]
    assert blocks[0] == blocks[1] == json.loads(json.dumps(blocks[0]))
    assert blocks[0]["asked"] == "auto"
    assert blocks[0]["processor"]
    assert blocks[0]["shapes"]
    for shape in blocks[0]["shapes"]:
        assert {one["rows"] for one in shape["measured"]} == {1, 2, 3, 64}
        assert shape["why"]
        assert shape["layers"] >= 1
    monkeypatch.setattr(chosen, "choose", choice.choose)
    asked = ours(kind, folder, products="plain")
    monkeypatch.setenv("DYNAMAX_LM_PRODUCTS", "plain")
    assert ours(kind, folder).fingerprint == asked.fingerprint != first.fingerprint
    assert ours(kind, folder, products="auto").fingerprint == first.fingerprint


def test_products_are_fixed_at_loading_and_refused_where_they_cannot_be(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "mistral")
    model = ours("mistral", folder, products="plain")
    model.change(products="plain", threshold=0.5)
    with pytest.raises(SettingError, match="products=packed: it is fixed"):
        model.change(products="packed")
    with pytest.raises(SettingError, match="products=packed: a model that is handed in"):
        type(model)(pretrained=model.model, tokenizer=model.tokenizer, products="packed")
    with pytest.raises(SettingError, match="products=packed: weights are arranged on a CPU"):
        ours("mistral", folder, products="packed", device="cuda")
    with pytest.raises(SettingError, match="products=fast"):
        ours("mistral", folder, products="fast")
