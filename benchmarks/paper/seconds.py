"""``python -m benchmarks.paper.seconds``: what settings of the grid take, in turns with full depth.

    python -m benchmarks.paper.seconds --backbone dynamax-mistral=SMOLLM2 --limit 32 \
        --tasks dynamax_truthfulqa_gen_sample dynamax_coqa_sample dynamax_triviaqa_sample \
        --settings "ffn, 0.9: heads=REAL/ffn-narrow-0,threshold=0.9" --output_path seconds.json

The grid's points share passes, so that their seconds are not those of separate runs. Here every
setting is a run of its own, each round runs all of them, and the full-depth reference is off.
Answers differ in length, so that an answer's time is given for one token.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.plan import TASKS, read_backbone
from dynamax_lm.bench.evaluation import evaluate
from dynamax_lm.bench.timing import samples, use_clock
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import load_lm, run_command
from dynamax_lm.harness.plugin.task_folder import own_tasks

Block = Mapping[str, Any]
FULL = "full depth"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    backbone = read_backbone(options.backbone)
    named = dict(map(read_setting, options.settings))
    use_clock("processor")
    blocks: dict[str, list[Block]] = {name: [] for name in (FULL, *named)}
    contestants = {}
    for name, setting in {FULL: "mode=full", **named}.items():
        own = setting if name == FULL else f"{setting},reference=false"
        arguments = ",".join(filter(None, [f"pretrained={backbone.pretrained}", own]))
        lm = load_lm(backbone.model, arguments, batch_size=options.batch_size)
        contestants[name] = _evaluation(lm, options, blocks[name].append)
    whole = samples(contestants, options.rounds)
    found = [
        row(name, named.get(name, "mode=full"), whole[name], blocks[name][1:]) for name in blocks
    ]
    write_text(Path(options.output_path), json.dumps(found, indent=1) + "\n")
    print(table(found))


def read_setting(text: str) -> tuple[str, str]:
    """The name and the arguments of ``ffn, 0.9: heads=FOLDER,threshold=0.9``.

    Raises:
        SettingError: there is no name, or it is full depth's.
    """
    name, colon, setting = (part.strip() for part in text.partition(":"))
    if not (name and colon and setting) or name == FULL:
        raise SettingError(f"--settings {text}: give NAME: ARGUMENTS; {FULL} is run by itself")
    return name, setting


def _evaluation(
    lm: Any, options: argparse.Namespace, keep: Callable[[Block], object]
) -> Callable[[], object]:
    manager = own_tasks()

    def run() -> None:
        results = evaluate(lm, options.tasks, manager, limit=options.limit)
        keep(results["config"]["early_exit"])

    return run


def row(name: str, setting: str, whole: Sequence[float], blocks: Sequence[Block]) -> dict[str, Any]:
    """What one setting took, round by round.

    Args:
        name: as the table calls it.
        setting: its arguments.
        whole: processor seconds of each round, loading excluded.
        blocks: what the run of each round recorded.
    """
    tokens = sum(task["with_stop"]["tokens"] for task in blocks[0]["tasks"].values())
    return {
        "name": name,
        "setting": setting,
        "tokens": tokens,
        "flops_saved": blocks[0]["flops_saved"],
        "flops_saved_total": blocks[0]["flops_saved_total"],
        "whole": list(whole),
        "prompt": [block["seconds"]["prompt"] for block in blocks],
        "answer": [block["seconds"]["answer"] for block in blocks],
    }


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Medians of ratios to full depth in the same round, and their ranges."""
    header = ["setting", "tokens", "FLOPs saved", "of all", "time a token of an answer"]
    full = next(one for one in found if one["name"] == FULL)
    return markdown_table(
        [*header, "prompts", "whole run"],
        [
            [
                str(one["name"]),
                str(one["tokens"]),
                f"{100 * one['flops_saved']:.1f} %",
                f"{100 * one['flops_saved_total']:.1f} %",
                _ratio(one["answer"], full["answer"], full["tokens"] / one["tokens"]),
                _ratio(one["prompt"], full["prompt"], 1.0),
                _ratio(one["whole"], full["whole"], 1.0),
            ]
            for one in found
        ],
    )


def _ratio(own: Sequence[float], full: Sequence[float], scale: float) -> str:
    ratios = [scale * a / b for a, b in zip(own, full, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.seconds",
        description="Time settings of the grid in turns with full depth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--backbone", required=True, help="MODEL=CHECKPOINT")
    add("--settings", nargs="+", required=True, metavar="NAME: ARGUMENTS")
    add("--tasks", nargs="+", default=list(TASKS))
    add("--limit", type=int, help="documents of each task")
    add("--batch_size", type=int, default=16)
    add("--rounds", type=int, default=3)
    add("--output_path", required=True, help="a JSON file")
    return parser


if __name__ == "__main__":
    run_command(main)
