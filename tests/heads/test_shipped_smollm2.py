"""The heads for SmolLM2-135M-Instruct, as far as they can be tested without its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MistralConfig

from benchmarks.real.ship import facts_of_training, make_card
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads import ExitHeads, check_shape
from dynamax_lm.heads.backbone_check import check_backbone
from dynamax_lm.heads.shipped import shipped_folder
from dynamax_lm.heads.unembedding_sample import _places
from dynamax_lm.models.trained import choose_heads
from dynamax_lm.settings import parse_settings

NAME = "smollm2-135m-instruct"
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "real" / "results"
SHAPE = {
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "vocab_size": 49152,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
}


def results(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder() -> Path:
    found = shipped_folder(NAME)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def heads(folder: Path) -> ExitHeads:
    return ExitHeads.from_pretrained(folder)


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig])
def test_they_are_of_its_shape_and_their_certificate_sets_the_threshold(
    kind: Any, heads: ExitHeads
) -> None:
    check_shape(heads.config, kind(**SHAPE))
    raw = parse_settings({"heads": NAME})
    chosen = choose_heads(raw, embedded=None, config=kind(**SHAPE))
    assert chosen is not None
    assert chosen.facts.certificate_fault is None
    assert chosen.facts.certified == 0.85
    with pytest.raises(SettingError, match="number of layers"):
        check_shape(heads.config, kind(**SHAPE | {"num_hidden_layers": 24}))


def test_the_certificate_confirms_itself_and_is_of_these_heads(heads: ExitHeads) -> None:
    assert heads.config.certificate is not None
    certificate = Certificate.from_json(heads.config.certificate)
    assert certificate.setting.heads == heads.config.identity
    assert certificate.setting.exit_layers == heads.config.exit_layers
    assert (certificate.metric, certificate.risk, certificate.delta) == ("agreement", 0.1, 0.05)


def test_the_weights_are_small_and_are_those_that_were_measured(
    folder: Path, heads: ExitHeads
) -> None:
    assert (folder / "model.safetensors").stat().st_size < 4.5e6
    assert heads.config.number_format == "bfloat16"
    assert all(one.dtype == torch.float32 for one in heads.parameters())
    assert heads.config.identity == results("smollm2-shipped.json")["identity"]


def test_the_card_is_made_of_the_results(folder: Path, heads: ExitHeads) -> None:
    facts = results("smollm2-affine-317k.json")["facts"]
    told = results("smollm2-shipped.json") | {"recipe": facts["recipe"]} | facts_of_training(facts)
    digest = heads.config.training["backbone"]
    made = make_card(heads, told, results("smollm2-bins.json"), digest)
    assert (folder / "README.md").read_text(encoding="utf-8") == made


def test_the_page_has_the_numbers_of_the_results() -> None:
    page = (RESULTS.parents[2] / "docs" / "shipped-heads.md").read_text(encoding="utf-8")
    for row in results("smollm2-bins.json")["rows"]:
        cells = " | ".join(
            f"{100 * one['agreement']:.1f} ± {100 * one['agreement_stderr']:.1f} %, "
            f"{100 * one['flops_saved']:.1f} ± {100 * one['flops_saved_stderr']:.1f} %"
            for one in row["tasks"].values()
        )
        assert f"| {row['weights']} | {cells} |" in page
    (total,) = (
        one
        for one in results("smollm2-shipped.json")["lines"]["rounded, of all FLOPs"]
        if one["target"] == 0.95
    )
    low, high = (100 * one for one in total["saved_interval"])
    assert total["verdict"] == "loses"
    assert f"it saves {100 * total['saved']:.2f} % [{low:.2f}, {high:.2f}]" in page


def test_the_page_has_the_certificate(heads: ExitHeads) -> None:
    page = (RESULTS.parents[2] / "docs" / "shipped-heads.md").read_text(encoding="utf-8")
    certificate = Certificate.from_json(heads.config.certificate)
    assert [one.setup.name for one in certificate.tasks] == [
        "dynamax_truthfulqa_gen_sample",
        "dynamax_triviaqa_sample",
    ]
    assert [one.documents for one in certificate.tasks] == [339, 400]
    for point in certificate.grid:
        passed = max(one.p_value for one in point.outcomes) <= certificate.delta
        first, second = (
            f"{100 * one.mean_loss:.1f} %, {100 * one.flops_saved:.1f} %" for one in point.outcomes
        )
        row = rf"\| {point.threshold:g} \| {first}( \(p = [\d.]+\))? \| {second} \| "
        assert re.search(row + ("yes" if passed else "no"), page), point.threshold


def test_the_page_has_what_thresholds_cost() -> None:
    page = (RESULTS.parents[2] / "docs" / "shipped-heads.md").read_text(encoding="utf-8")
    rows = results("smollm2-threshold.json")["rows"]
    assert len(rows) == 4
    shares = {"agreement": 1, "flops_saved": 1, "flops_saved_total": 1, "consistency": 0}
    scores = {"rougeL_max": (1, 1), "rouge2_max": (1, 1), "bleu_max": (1, 1), "bleu_acc": (100, 0)}
    for row in rows:
        found, paired = row["results"], row["paired"]
        cells = [
            f"{100 * found[name]:.{places}f} ± {100 * found[f'{name}_stderr']:.{places}f} %"
            for name, places in shares.items()
        ]
        for name, (scale, places) in scores.items():
            difference, error = (scale * paired[name][one] for one in ("difference", "stderr"))
            cells.append(f"{difference:+.{places}f} ± {error:.{places}f}")
            full = found[f"full_depth_{name}"]
            assert found[name] - full == pytest.approx(paired[name]["difference"], abs=1e-6)
        assert f"| {row['threshold']:g} | {' | '.join(cells)} |" in page


def test_weights_in_the_bins_of_its_unembedding_are_accepted_and_others_are_not(
    heads: ExitHeads,
) -> None:
    sample = heads.config.sample()
    assert sample is not None
    assert sample.bits == 8
    config = LlamaConfig(**SHAPE)
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.randn(49152, 576, generator=generator) * float(sample.values.std())
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        check_backbone(heads.config, config, unembedding)
    values, half = torch.from_numpy(sample.values), torch.from_numpy(sample.half_steps)
    inside = values + half * (2 * torch.rand(len(values), generator=generator) - 1)
    unembedding[_places(unembedding)] = inside
    found = check_backbone(heads.config, config, unembedding)
    assert found.kind == "rounded"
    assert found.difference == pytest.approx(0.0067, abs=0.0005)  # as drawn in benchmarks.real.bins
    row, column = (one[0] for one in _places(unembedding))
    unembedding[row, column] = values[0] + 1.5 * half[0]
    with pytest.raises(SettingError, match="unembedding has fingerprint"):
        check_backbone(heads.config, config, unembedding)
