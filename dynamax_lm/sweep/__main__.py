"""``python -m dynamax_lm.sweep``: thresholds and other settings in one command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.harness.command_line import Command, add_lm_eval_options, run_command
from dynamax_lm.harness.machine import described_once

if TYPE_CHECKING:
    from dynamax_lm.sweep.grid import Point
    from dynamax_lm.sweep.run import Outcome


def main(arguments: list[str]) -> None:
    """Run the sweep that the arguments describe and print its table.

    Raises:
        SettingError: any wrong name or value.
    """
    options = parser().parse_args(arguments)
    from dynamax_lm.sweep.grid import read_grid
    from dynamax_lm.sweep.table import sweep_table

    points = read_grid(options.thresholds, options.vary, options.point)
    outcomes = run_points(options, points)
    print(sweep_table(outcomes))
    print(f"\n{len(outcomes)} points in {outcomes[0].folder.parent}")
    print(f"next: python -m dynamax_lm.report {options.output_path} --output_path report")


def run_points(options: argparse.Namespace, points: Sequence[Point]) -> list[Outcome]:
    """Run a sweep over ``points``, in order, with its progress on standard error.

    Args:
        options: of :func:`parser`, whose own points are not read.
        points: at least one.

    Raises:
        SettingError: any wrong name or value.
    """
    if not (options.output_path or "").strip():
        raise SettingError("--output_path is missing: the folder for the results of every point")
    if not 0 <= options.memory_gib < float("inf"):
        raise SettingError(f"--memory_gib {options.memory_gib}: give a number of at least 0")
    if options.tokens_at_once < 0:
        raise SettingError(f"--tokens_at_once {options.tokens_at_once}: at least 0, which is off")
    log_samples = options.log_samples
    options.log_samples = False
    command = Command(options)
    from dynamax_lm.common.outputs import claimed, writable_folder
    from dynamax_lm.sweep.run import Sweep

    sweep = Sweep(
        command=command,
        points=points,
        output=writable_folder(Path(options.output_path) / command.checkpoint),
        log_samples=log_samples,
        memory_bytes=int(options.memory_gib * (1 << 30)),
        tokens_at_once=options.tokens_at_once,
    )
    sweep.check()
    with claimed(sweep.output), described_once():
        return sweep.run(say=lambda line: print(line, file=sys.stderr, flush=True))


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.sweep",
        description="Evaluate many settings of one loaded model; each point is an ordinary lm-eval "
        "results file. An interrupted sweep resumes.",
        example="python -m dynamax_lm.sweep --model dynamax-mistral --model_args pretrained=tiny "
        "\\\n    --tasks dynamax_coqa_sample --batch_size 8 --thresholds 0.5:1.0:0.1 "
        "--output_path results/",
    )
    points = made.add_argument_group("points")
    points.add_argument(
        "--thresholds",
        metavar="<start:stop:step>",
        help="thresholds, both ends included, or a list: 0.5,0.9",
    )
    points.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="<name=value,value>",
        help="a model argument and its values; several --vary make a product",
    )
    points.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="<name=value,name=value>",
        help="a further point, outside the product: --point mode=full",
    )
    made.add_argument_group("samples").add_argument(
        "--log_samples",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write samples beside the results",
    )
    shared = made.add_argument_group("what points share")
    shared.add_argument(
        "--memory_gib",
        type=float,
        default=1.0,
        metavar="<GiB>",
        help="most memory for prompt states kept between points (default: 1)",
    )
    shared.add_argument(
        "--tokens_at_once",
        type=int,
        default=128,
        metavar="<tokens>",
        help="most tokens of a pass in which several thresholds are run, as rows of one batch "
        "(default: 128; 0 runs each by itself)",
    )
    add_lm_eval_options(made)
    return made


if __name__ == "__main__":
    run_command(main)
