"""The tables of published configurations and of families are what the code says today."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from dynamax_lm.core.costs import unembed_flops
from dynamax_lm.decoders.families import FAMILIES, WRAPPERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "published.py"))


@pytest.mark.parametrize(
    ("page", "rows"),
    [
        ("ledger.md", "where_exits_pay"),
        ("cheap-look.md", "what_looks_cost"),
        ("models.md", "what_works"),
    ],
)
def test_a_page_has_the_table(page: str, rows: str, script: dict[str, Any]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert script["table"](script[rows]()) in text


def test_every_family_is_in_the_matrix_and_none_that_is_refused(script: dict[str, Any]) -> None:
    _, *rows = script["what_works"]()
    assert {row[0].strip("`") for row in rows} == {*FAMILIES, *WRAPPERS}
    assert not set(WRAPPERS) & set(FAMILIES)


def test_published_costs_are_those_of_the_models(script: dict[str, Any]) -> None:
    """Parameters of a dense decoder, from its FLOPs: two for each weight of a token's products."""
    costs = script["published"]()
    weights = (costs["Llama 3 8B"].layers(0, 0, 32) + unembed_flops(costs["Llama 3 8B"])) / 2
    assert weights + 128256 * 4096 == pytest.approx(8.03e9, rel=0.01)  # as the model is named
    mamba = costs["Falcon-Mamba 7B"]
    weights = (mamba.layers(0, 0, 64) + unembed_flops(mamba)) / 2
    assert weights + 65024 * 4096 == pytest.approx(7.27e9, rel=0.01)
    assert AutoConfig.for_model("llama").model_type in FAMILIES
