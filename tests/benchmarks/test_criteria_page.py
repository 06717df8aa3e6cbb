"""The tables of the criteria page are those of the results that its commands made."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.criteria.prompt_exits import fixed_depths, table
from benchmarks.criteria.report import markdown

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {"tiny-mistral": "## The embedded Mistral", "tiny-mamba": "## The embedded Mamba"}


@pytest.mark.parametrize("model", sorted(SECTIONS))
def test_every_row_is_of_the_results(model: str) -> None:
    page = (ROOT / "docs" / "criteria-tables.md").read_text(encoding="utf-8")
    section = page.partition(SECTIONS[model])[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 50
    results = ROOT / "benchmarks" / "criteria" / "results" / f"{model}.json"
    made = markdown(json.loads(results.read_text(encoding="utf-8"))).splitlines()
    assert set(rows) <= set(made)


@pytest.fixture(scope="module")
def prompts() -> list[dict[str, Any]]:
    results = ROOT / "benchmarks" / "criteria" / "results" / "prompts.json"
    return list(json.loads(results.read_text(encoding="utf-8")))


def test_the_section_on_prompts_has_its_table(prompts: list[dict[str, Any]]) -> None:
    page = (ROOT / "docs" / "criteria.md").read_text(encoding="utf-8")
    assert table(prompts) in page.partition("## Prompts that exit")[2]


def test_a_fixed_depth_is_at_least_the_measured_one_of_its_cost(
    prompts: list[dict[str, Any]],
) -> None:
    """And full depth's agreement where nothing is saved; between two depths it is no worse."""
    for one in prompts:
        assert fixed_depths(one, 0.0) == 1.0
        known = [(exit["layer"], exit["agreement"]["value"]) for exit in one["exits"]]
        for (layer, low), (above, high) in itertools.pairwise(known):
            share = 1 - layer / one["layers"]
            assert fixed_depths(one, share) >= low
            between = 1 - (layer + above) / 2 / one["layers"]
            assert fixed_depths(one, between) >= (low + high) / 2 - 1e-9


def test_prompts_save_what_the_ledger_says_and_maps_cost_part_of_it(
    prompts: list[dict[str, Any]],
) -> None:
    for one in prompts:
        plain = {way["layer"]: way["saved"]["value"] for way in one["prompts"] if not way["maps"]}
        for way in one["prompts"]:
            assert 0 < way["saved"]["value"] < 1 - way["layer"] / one["layers"]
            assert way["maps"] is None or way["saved"]["value"] < plain[way["layer"]]
