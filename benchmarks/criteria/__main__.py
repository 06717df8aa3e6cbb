"""``python -m benchmarks.criteria``: every measure and head on one backbone, equally treated.

    python -m benchmarks.criteria --model dynamax-mamba --model_args pretrained=tiny \
        --eval_data ../shared/data/eval --train_data prompts.jsonl --output_path runs/criteria/mamba

What is finished under ``--output_path`` (states, heads, projections) is not made again.
``docs/criteria.md`` explains what is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.criteria.kinds import KINDS, STEP
from dynamax_lm.harness.command_line import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser().parse_args(argv)
    from benchmarks.criteria.run import run
    from dynamax_lm.harness.plugin.errors import install_one_line_errors

    install_one_line_errors()
    run(options)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.criteria",
        description="Compare every measure and head on one backbone; started again, it goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--model", choices=("dynamax-mistral", "dynamax-mamba"), required=True)
    add("--model_args", default="pretrained=tiny")
    add("--device", help="a GPU if there is one, else cpu")
    add("--batch_size", type=int, default=32)
    add("--exit_layers", help="8+16+24, every_4, latter_half, …; four over the latter half if not")
    add("--skipped_state", default="propagate", help="billed for skipped layers")
    add("--eval_data", required=True, help="folder of the tasks' records")
    add("--train_data", required=True, help="JSONL with prompts, other than those records")
    add("--limit", type=int, default=1000, help="test documents of each task")
    add(
        "--num_fewshot", type=int, help="examples before a TriviaQA question; the task's own if not"
    )
    add("--train_limit", type=int, default=3000, help="prompts to train on")
    add("--train_longest", type=int, default=600, help="characters of a training prompt")
    add("--train_text_tokens", type=int, default=0, help="of the same records, read as text")
    add("--max_steps", type=int, default=100, help="of each classifier")
    add("--train_documents", type=int, default=256, help="of a step")
    add("--translator_tokens", type=int, default=512, help="of a step of distillation")
    add("--translator_steps", type=int, default=200, help="of distillation")
    add("--fit_precision", choices=("no", "bf16"), default="no", help="of training passes")
    names = [kind.folder for kind in KINDS]
    add("--kinds", nargs="*", choices=names, default=names, help="heads behind translators")
    add("--plain_kinds", nargs="*", choices=names, default=names, help="heads without translators")
    add("--measures", nargs="*", default=[], help="more measures, as FILE.py:CLASS")
    add(
        "--attribute",
        nargs="*",
        default=["top_prob", "linear", "mamba, narrow"],
        help="rules whose error is taken apart",
    )
    add("--engine_documents", type=int, default=200, help="on so many documents")
    add("--title", help="of the plot")
    add("--pretrained_name", help="of the backbone, in the heads' configuration")
    add("--grid_step", type=float, default=STEP, help="of the thresholds' log-odds")
    add("--seed", type=int, default=0)
    add("--head_seeds", type=int, default=1, help="train each head so many times, from --seed on")
    add("--output_path", required=True)
    return made


if __name__ == "__main__":
    run_command(main)
