"""``python -m benchmarks.real``: evaluation of a real checkpoint's translators and classifiers.

    python -m benchmarks.real.gather ...
    python -m benchmarks.real --model_args pretrained=SmolLM2 --states runs/real/states \
        --exit_layers 16+20+24+28 --rank 64 --output_path runs/real/study

What is finished under ``--output_path`` is not made again.
``docs/real-model.md`` explains what is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.criteria.kinds import KINDS
from dynamax_lm.harness.command_line import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser().parse_args(argv)
    from benchmarks.real.run import run

    run(options)


def study_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The options of every study of gathered states."""
    made = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--model_args", required=True)
    add("--pretrained_name", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    add("--states", required=True, help="folder of benchmarks.real.gather")
    add("--exit_layers", required=True)
    add("--grid_step", type=float, default=0.2, help="of the thresholds' log-odds")
    add("--output_path", required=True)
    return made


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = study_parser(
        "python -m benchmarks.real",
        "Train and judge heads of a real checkpoint; started again, it goes on.",
    )
    add = made.add_argument
    add("--rank", type=int, default=64, help="of the translators; 0 for affine ones")
    add("--translator_steps", type=int, default=150, help="of distillation")
    add("--translator_tokens", type=int, default=512, help="of a step of distillation")
    add("--curve", type=int, nargs="*", default=[], help="parts of the learning curve")
    add("--curve_tokens", type=int, default=1500, help="tokens that the curve is read on")
    names = [kind.folder for kind in KINDS]
    add("--kinds", nargs="*", choices=names, default=["linear-full", "ffn-narrow", "mamba-narrow"])
    add("--seeds", type=int, default=3)
    add("--loss", choices=("balanced", "plain"), default="balanced")
    add("--label_k", type=int, default=1, help="labels: among full depth's so many most likely")
    add("--max_steps", type=int, default=150, help="of each classifier")
    add("--train_documents", type=int, default=128, help="of a step")
    add("--measures", nargs="*", default=["top_prob", "margin"])
    return made


if __name__ == "__main__":
    run_command(main)
