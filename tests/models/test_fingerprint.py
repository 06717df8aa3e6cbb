"""A model's fingerprint follows what can change a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.checkpoints import save_checkpoint
from tests.lm_requests import ours


def test_the_fingerprint_follows_what_can_change_a_number(folders: dict[str, Path]) -> None:
    def fingerprint(**options: Any) -> str:
        return ours("mistral", folders["mistral"], **options).fingerprint

    base = fingerprint()
    assert fingerprint(batch_size=7) == base
    assert fingerprint(threshold=0.5) != base
    assert fingerprint(skipped_state="copy_kv") != base
    assert fingerprint(dtype="bfloat16") != base
    assert fingerprint(max_length=50) != base


def test_weights_trained_anew_have_another_fingerprint(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "mistral")
    before = ours("mistral", folder)
    assert ours("mistral", folder).fingerprint == before.fingerprint
    with torch.no_grad():
        before.model.model.layers[1].input_layernorm.weight.mul_(1.5)
    before.model.save_pretrained(folder)
    assert ours("mistral", folder).fingerprint != before.fingerprint
