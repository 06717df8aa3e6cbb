"""Sweeps of toys over small checkpoints, and the files that they leave."""

from __future__ import annotations

from pathlib import Path

from dynamax_lm.sweep.__main__ import main

TOYS = str(Path(__file__).parents[1] / "harness" / "toys")
TASKS = ["toy_gen", "toy_mc", "toy_rolling"]


def sweep(checkpoint: Path, output: Path, *more: str, kind: str = "mistral") -> None:
    model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
    main(
        [
            *("--model", model, "--model_args", f"pretrained={checkpoint},dtype=float32"),
            *("--tasks", ",".join(TASKS), "--include_path", TOYS, "--limit", "3"),
            *("--batch_size", "2", "--device", "cpu", "--gen_kwargs", "max_gen_toks=12"),
            *("--output_path", str(output), *more),
        ]
    )


def samples_in(folder: Path) -> dict[str, str]:
    return {file.name.split("_20")[0]: file.read_text() for file in folder.glob("samples_*")}


def points(output: Path) -> dict[str, Path]:
    return {folder.name: folder for folder in output.glob("*/*=*")}
