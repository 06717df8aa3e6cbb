"""The tables of the criteria page are those of the results that its commands made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.criteria.report import markdown

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {"tiny-mistral": "## The embedded Mistral", "tiny-mamba": "## The embedded Mamba"}


@pytest.mark.parametrize("model", sorted(SECTIONS))
def test_every_row_is_of_the_results(model: str) -> None:
    page = (ROOT / "docs" / "criteria.md").read_text(encoding="utf-8")
    section = page.partition(SECTIONS[model])[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 50
    results = ROOT / "benchmarks" / "criteria" / "results" / f"{model}.json"
    made = markdown(json.loads(results.read_text(encoding="utf-8"))).splitlines()
    assert set(rows) <= set(made)
