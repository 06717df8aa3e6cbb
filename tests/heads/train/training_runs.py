"""Short runs of head training, and what they leave behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dynamax_lm.heads.train.trainer import CHECKPOINT

MODELS = {"dynamax-mistral": "mistral", "dynamax-mamba": "mamba2"}


def options(
    checkpoints: Mapping[str, object],
    data: object,
    out: Path,
    *more: object,
    model: str = "dynamax-mistral",
) -> list[str]:
    """A command of six steps, and whatever more is given."""
    common: tuple[object, ...] = (
        "--max_steps",
        6,
        "--batch_size",
        2,
        "--window",
        24,
        "--held_out",
        0.3,
    )
    common += ("--save_every", 2, "--log_every", 1, "--calibration_tokens", 300, "--width", 8)
    given = ("--model", model, "--model_args", f"pretrained={checkpoints[model]},dtype=float32")
    return [str(one) for one in (*given, "--data", data, "--output_path", out, *common, *more)]


def digest(module: torch.nn.Module) -> str:
    """Of names and weights."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def remains(folder: Path) -> Any:
    """The step of the checkpoint that remains."""
    return torch.load(folder / CHECKPOINT, weights_only=True)["step"]
