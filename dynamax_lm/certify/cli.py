"""The command line of certification: its options and its entry.

The parser imports no model, so that help is fast; `command` interprets the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamax_lm.certify.sequence import DEFAULT_GRID
from dynamax_lm.common.options import CommandParser
from dynamax_lm.harness.command_line import add_lm_eval_options

if TYPE_CHECKING:
    from dynamax_lm.common.certificate import Certificate


def main(arguments: Sequence[str] | None = None) -> Certificate:
    """Certify by the command line's options, and write the certificate.

    Args:
        arguments: options; those of the process if ``None``.

    Raises:
        SettingError: any wrong option.
        SystemExit: an option that argparse refuses.
    """
    options = parser().parse_args(arguments)
    from dynamax_lm.certify.command import certify_by_options

    return certify_by_options(options)


def parser() -> CommandParser:
    """The command's own options, and those of ``lm_eval run``."""
    made = CommandParser(
        prog="python -m dynamax_lm.certify",
        description="Find the lowest threshold whose risk stays bounded, by Learn-then-Test.",
        example="python -m dynamax_lm.certify --model dynamax-mamba "
        "--model_args pretrained=tiny,heads=heads/my-heads \\\n"
        "    --tasks dynamax_triviaqa --metric agreement --risk 0.05 --delta 0.05",
        abbreviate=False,
    )
    add = made.add_argument_group("guarantee").add_argument
    add(
        "--metric",
        default="agreement",
        metavar="<name>",
        help="agreement (default), consistency, or a metric of the task",
    )
    add("--risk", type=float, default=0.05, metavar="<r>", help="bound on the mean loss (0.05)")
    add("--delta", type=float, default=0.05, metavar="<d>", help="probability of error (0.05)")
    grid = ",".join(f"{value:g}" for value in DEFAULT_GRID)
    add(
        "--thresholds",
        default=grid,
        metavar="<t,t>",
        help=f"what to test, separated by commas (default: {grid})",
    )
    add = made.add_argument_group("documents").add_argument
    add(
        "--data",
        nargs="+",
        metavar="<file>",
        help="JSONL records for the one task named, in its own columns; for several tasks "
        "TASK=FILE for each",
    )
    add(
        "--group_by",
        metavar="<field>",
        help="documents of one value in this field are one independent unit "
        "(default: those that share a passage)",
    )
    add_lm_eval_options(made)
    return made
