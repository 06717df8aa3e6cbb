"""The table of speed by family is that of its measurement, and has every family."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.families import page
from dynamax_lm.decoders.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_the_measured_table() -> None:
    measured = json.loads((ROOT / "benchmarks/speed/families/bench.json").read_text("utf-8"))
    table = page(measured["rows"])
    assert table in (ROOT / "docs" / "models.md").read_text("utf-8")
    assert {row["model"] for row in measured["rows"]} == set(FAMILIES)
