"""The 7B models' ledger: their configurations, magnitudes by hand, and the page."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import Mamba2Config, MistralConfig

from dynamax_lm.core.costs import unembed_flops
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs

ROOT = Path(__file__).resolve().parents[2]


def ledger_7b() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "ledger_7b.py"))


def test_the_7b_numbers_are_their_configurations() -> None:
    script = ledger_7b()
    mistral = MistralConfig(vocab_size=32768, sliding_window=None)  # v0.3; the rest is v0.1's
    assert script["MISTRAL"] == AttentionCosts.from_config(mistral)
    assert script["CODESTRAL"] == Mamba2Costs.from_config(Mamba2Config())


def test_the_page_shows_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    ledger_7b()["main"]()
    page = (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8")
    sections = capsys.readouterr().out.strip().split("\n\n### ")
    assert len(sections) == 4
    for section in sections:
        assert section.strip() in page


@pytest.mark.parametrize(
    ("name", "megaflops"),
    [
        ("mistral layer", 436.2),
        ("codestral layer", 224.5),
        ("vocabulary", 268.4),
        ("mistral state", 16.8),
        ("codestral state without C", 79.8),
        ("mistral model", 14227.1),
        ("codestral model", 14635.0),
    ],
)
def test_the_7b_magnitudes_by_hand(name: str, megaflops: float) -> None:
    """Worked out from the shapes alone, in multiply-adds, as one would on paper."""
    script = ledger_7b()
    mistral, codestral = script["MISTRAL"], script["CODESTRAL"]
    d, inner, b, dt = 4096, 8192, 8 * 128, 128
    by_hand = {
        "mistral layer": 2 * (d * d + 2 * d * 1024 + d * d + 3 * d * 14336),
        "codestral layer": 2 * d * (2 * inner + 2 * b + dt)
        + 2 * 4 * (inner + 2 * b)
        + 5 * inner * 128
        + 2 * inner * d,
        "vocabulary": 2 * d * 32768,
        "mistral state": 2 * 2 * d * 1024,
    }
    by_hand["codestral state without C"] = codestral.skipped("propagate") - 2 * d * b
    by_hand["mistral model"] = 32 * by_hand["mistral layer"] + by_hand["vocabulary"]
    by_hand["codestral model"] = 64 * by_hand["codestral layer"] + by_hand["vocabulary"]
    assert by_hand[name] / 1e6 == pytest.approx(megaflops, abs=0.051)
    assert mistral.projections == by_hand["mistral layer"]
    assert codestral.layer(0) == by_hand["codestral layer"]
    assert unembed_flops(mistral) == unembed_flops(codestral) == by_hand["vocabulary"]
    assert mistral.skipped("propagate") == by_hand["mistral state"]
