"""``python -m dynamax_lm.headroom``: upper bounds on the savings of early exit for a model."""

from __future__ import annotations

import sys

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.harness.command_line import Command, add_lm_eval_options, run_command


def main(arguments: list[str]) -> None:
    """Print the report, and write it with its picture to ``--output_path``.

    Raises:
        SettingError: any wrong name or value.
    """
    options = parser().parse_args(arguments)
    from dynamax_lm.common.outputs import writable_folder, write_json, write_text
    from dynamax_lm.common.plots import require_matplotlib
    from dynamax_lm.headroom.plot import draw
    from dynamax_lm.headroom.run import run
    from dynamax_lm.headroom.table import render
    from dynamax_lm.headroom.verdict import WORTHWHILE

    worthwhile = WORTHWHILE if options.worthwhile is None else options.worthwhile
    if not 0.0 < worthwhile < 1.0:
        raise SettingError(f"--worthwhile {worthwhile}: give a share between 0 and 1, such as 0.05")
    command = Command(options)
    folder = None
    if options.output_path is not None:  # refused before the run, not after it
        require_matplotlib()
        folder = writable_folder(options.output_path) / command.checkpoint
        writable_folder(folder)
    report = run(
        command,
        worthwhile,
        options.prompt_exits,
        options.prompt_maps,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    text = render(report.found, report.verdicts, report.title, report.textless)
    if folder is not None:  # before it is printed to what may be closed by now
        write_text(folder / "headroom.md", text)
        write_json(folder / "headroom.json", report.to_json())
        draw(report.found, report.title, report.layers, folder / "headroom")
    print(text)
    if folder is not None:
        print(f"headroom.md, .json, .png and .svg are in {folder}")
    print(_next(report.verdicts[-1].level, str(command.config.model)))


def _next(level: str, model: str) -> str:
    """The next command, by the verdict on all tasks together."""
    if level in ("worth trying", "only with cheap checks"):
        return f"next: python -m dynamax_lm.heads.train --model {model} --help"
    if level == "undecided":
        return "next: the same command with more documents (--limit) or with examples in the prompt"
    return "next: the fixed depths, by python -m dynamax_lm.sweep --vary exit_layers=... --help"


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.headroom",
        description="How much could this model save with early exits, at best? Agreement with full "
        "depth by layer, the net saving of an oracle policy, the balance of labels, and a verdict.",
        example="python -m dynamax_lm.headroom --model dynamax-mistral "
        "--model_args pretrained=tiny \\\n"
        "    --tasks dynamax_sample --limit 20 --batch_size 8 --output_path headroom/",
    )
    made.add_argument_group("verdict").add_argument(
        "--worthwhile",
        type=float,
        default=None,
        metavar="<share>",
        help="net share of FLOPs that a saving must reach (default: 0.05)",
    )
    prompts = made.add_argument_group("prompts")
    prompts.add_argument(
        "--prompt_exits",
        type=_layers,
        default=(),
        metavar="<layer>,...",
        help="layers at which prompts are tried to exit, answers run all (default: none)",
    )
    prompts.add_argument(
        "--prompt_maps",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="<folder>,...",
        help="maps of prompts that exit, each tried at its own layer (default: none)",
    )
    add_lm_eval_options(made)
    return made


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise SettingError(f"--prompt_exits {text}: give layers as 4,8") from None


if __name__ == "__main__":
    run_command(main)
