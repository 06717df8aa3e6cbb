"""``python -m benchmarks.paper``: the paper's experiment in one command that can be killed.

    python -m benchmarks.paper --output_path runs/paper
    python -m benchmarks.paper --backbones dynamax-mistral=tiny dynamax-mamba=tiny \
        --tasks dynamax_sample --train_data prompts.jsonl --output_path runs/paper-tiny

Heads are trained by ``dynamax_lm.heads.train``, or given (``--heads ffn=FOLDER``). Each backbone's
points are a sweep: the grid, full depth, and a fixed depth at every exit. Started again, it goes
on: finished heads and points are not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.paper.plan import (
    BACKBONES,
    CLASSIFIERS,
    TASKS,
    THRESHOLDS,
    Backbone,
    Rule,
    check_states,
    read_backbone,
    read_heads,
    rules,
)
from benchmarks.paper.report import best, draw, markdown, rows
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import run_command

_MAY_CHANGE = frozenset(
    {
        *("backbones", "classifiers", "skipped_states", "thresholds"),
        *("device", "batch_size", "memory_gib", "output_path"),
    }
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; a signal during training ends it with 128 + its number."""
    options = _parser().parse_args(argv)
    from dynamax_lm.heads.train.stopping import Stopped

    try:
        run(options)
    except Stopped as stopped:
        sys.stderr.write(f"dynamax_lm: {stopped}\n")
        sys.exit(128 + stopped.number)


def run(options: argparse.Namespace) -> None:
    """Train and evaluate what is left, then write the tables and the plot."""
    folder = Path(options.output_path)
    backbones = [read_backbone(text) for text in options.backbones]
    check_states(options.skipped_states, backbones)
    grids = [
        rules(backbone, options.classifiers, options.skipped_states, options.thresholds)
        for backbone in backbones
    ]
    given = read_heads(options.heads)
    _same_experiment(folder, options)
    found: list[dict[str, Any]] = []
    for backbone, grid in zip(backbones, grids, strict=True):
        heads = {name: given.get(name) or backbone.heads(folder, name) for name in CLASSIFIERS}
        for classifier in dict.fromkeys(rule.classifier for rule in grid):
            if classifier not in given:
                _train(backbone, classifier, heads[classifier], options)
        for rule, results in _evaluate(backbone, grid, heads, folder, options):
            told = {"backbone": f"{backbone.model}, {backbone.pretrained}", **rule._asdict()}
            found += rows(told, results)
        write_text(folder / "rows.json", json.dumps(found, indent=1) + "\n")
        write_text(folder / "table.md", f"{best(found)}\n{markdown(found)}")
        draw(found, folder / "paper.png")
    print(best(found))
    print(f"next: python -m dynamax_lm.report {folder / 'points'} --output_path report")


def _same_experiment(folder: Path, options: argparse.Namespace) -> None:
    """Refuse to mix heads of two experiments in one folder; its grid alone may grow."""
    path = folder / "experiment.json"
    wanted = {name: value for name, value in vars(options).items() if name not in _MAY_CHANGE}
    if path.is_file():
        begun = json.loads(path.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if begun.get(name) != value:
                raise SettingError(
                    f"--{name}={value}: {folder} holds points made with {begun.get(name)}; give "
                    "the same, or another --output_path"
                )
    write_text(path, json.dumps(wanted, indent=1) + "\n")


def _train(backbone: Backbone, classifier: str, target: Path, options: argparse.Namespace) -> None:
    from dynamax_lm.heads.train.command import train

    if (target / "config.json").is_file() and not (target / "checkpoint.pt").exists():
        return
    argv = ["--model", backbone.model, "--model_args", _model_args(backbone, options)]
    argv += ["--head", classifier, "--width", options.width, "--output_path", str(target)]
    argv += ["--max_steps", str(options.max_steps), "--seed", str(options.seed)]
    if options.device:
        argv += ["--device", options.device]
    if options.train_data:
        argv += ["--data", options.train_data]
    train(argv + shlex.split(options.train_args))


def _evaluate(
    backbone: Backbone,
    grid: Sequence[Rule],
    heads: Mapping[str, Path],
    folder: Path,
    options: argparse.Namespace,
) -> Iterator[tuple[Rule, dict[str, Any]]]:
    """The results of every point: full depth, fixed depths with the first heads, and the grid."""
    from dynamax_lm.sweep.__main__ import parser, run_points
    from dynamax_lm.sweep.grid import Point

    first = str(heads[grid[0].classifier])
    argv = ["--model", backbone.model, "--tasks", ",".join(options.tasks)]
    own = f",{options.eval_args}" if options.eval_args else ""
    argv += ["--model_args", f"{_model_args(backbone, options)}{own},heads={first}"]
    argv += ["--batch_size", str(options.batch_size), "--seed", str(options.seed)]
    argv += ["--memory_gib", str(options.memory_gib), "--output_path", str(folder / "points")]
    argv += ["--limit", str(options.limit)] if options.limit else []
    argv += ["--device", options.device] if options.device else []
    static = [Rule("full depth", "", 1.0)]
    settings: list[dict[str, Any]] = [{"mode": "full"}]
    exits = json.loads((Path(first) / "config.json").read_text("utf-8"))["exit_layers"]
    for state, layer in product(dict.fromkeys(rule.skipped_state for rule in grid), exits):
        static.append(Rule(f"fixed depth {layer}", state, 0.0))
        settings.append({"exit_rule": "fixed_depth", "exit_layers": layer, "skipped_state": state})
    for rule in grid:
        own = {"heads": str(heads[rule.classifier]), "skipped_state": rule.skipped_state}
        settings.append(own | {"threshold": rule.threshold})
    points = [Point(tuple(one.items())) for one in settings]
    outcomes = run_points(parser().parse_args(argv), points)
    for rule, outcome in zip([*static, *grid], outcomes, strict=True):
        yield rule, outcome.results


def _model_args(backbone: Backbone, options: argparse.Namespace) -> str:
    extra = f",{options.model_args}" if options.model_args else ""
    return f"pretrained={backbone.pretrained}{extra}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="Train and evaluate the paper's grid; started again, it goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--backbones", nargs="+", default=list(BACKBONES), help="MODEL=CHECKPOINT")
    add("--classifiers", nargs="+", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    add("--tasks", nargs="+", default=list(TASKS))
    add("--thresholds", nargs="+", type=float, default=list(THRESHOLDS))
    add("--skipped_states", nargs="+", default=["propagate"], help="run where a model has them")
    add("--heads", nargs="*", default=[], metavar="CLASSIFIER=FOLDER", help="trained before")
    add("--width", default="full", help="of the classifiers, as in heads.train")
    add("--model_args", default="", help="of every backbone, such as dtype=bfloat16")
    add("--eval_args", default="", help="further ones of evaluations alone: max_length=4096")
    add("--train_data", help="for heads.train --data; its default if left out")
    add("--train_args", default="", help="further options of heads.train, as one text")
    add("--max_steps", type=int, default=2000, help="of each set of heads")
    add("--limit", type=int, help="documents of each task")
    add("--batch_size", type=int, default=8)
    add("--memory_gib", type=float, default=1.0, help="of prompt states that points share")
    add("--device", help="a GPU if there is one, else cpu")
    add("--seed", type=int, default=0)
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    run_command(main)
