"""The page on heads shows what the closed forms give."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamax_lm.heads import ExitHeads, HeadsConfig

ROOT = Path(__file__).parents[2]
FULL, NARROW = {"state_size": 128, "head_dim": 64}, {"state_size": 16, "head_dim": 64}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("`linear`", {"classifier": "linear"}),
        ("`ffn`, full width, 14336 wide", {"classifier": "ffn", "ffn_width": 14336}),
        (
            "`ffn`, width 64, 256 wide",
            {"classifier": "ffn", "classifier_width": 64, "ffn_width": 256},
        ),
        ("`mamba`, full width, state 128", {"classifier": "mamba", **FULL}),
        (
            "`mamba`, width 128, state 16",
            {"classifier": "mamba", "classifier_width": 128, **NARROW},
        ),
        (
            "`mamba_depth`, width 128, state 16",
            {"classifier": "mamba_depth", "classifier_width": 128, **NARROW},
        ),
        ("`low_rank`, rank 64", {"translator": "low_rank", "translator_rank": 64}),
        ("`affine`", {"translator": "affine"}),
    ],
)
def test_a_row_of_the_table(name: str, options: dict[str, Any]) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "ledger_7b.py"))
    given = {
        "backbone": "a 7B model",
        "architecture": "attention",
        "n_layers": 32,
        "width": 4096,
        "vocabulary": 32768,
        "fingerprint": "",
        "exit_layers": (16,),
        "classifier": "none",
        "classifier_width": 4096,
    }
    with torch.device("meta"):
        heads = ExitHeads(HeadsConfig(**given | options))
    flops = heads.classifier_flops(16) + heads.translator_flops(16)
    layers = [flops / script[costs].layer(0) for costs in ("MISTRAL", "CODESTRAL")]
    row = f"| {name} | {flops / 1e6:.2f} | {layers[0]:.4f} | {layers[1]:.4f} |"
    assert row in (ROOT / "docs" / "heads.md").read_text(encoding="utf-8").splitlines()
