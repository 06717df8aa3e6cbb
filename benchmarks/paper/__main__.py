"""``python -m benchmarks.paper``: the paper's experiment in one command that can be killed.

    python -m benchmarks.paper --output_path runs/paper
    python -m benchmarks.paper --backbones dynamax-mistral=tiny dynamax-mamba=tiny \
        --tasks dynamax_sample --train_data prompts.jsonl --output_path runs/paper-tiny

Heads are trained by ``dynamax_lm.heads.train``, points evaluated by lm-eval with one loaded model a
backbone, and each result written before the next begins. Started again, it goes on: finished heads
and points are not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.paper.plan import (
    BACKBONES,
    CLASSIFIERS,
    TASKS,
    THRESHOLDS,
    Backbone,
    Point,
    points,
    read_backbone,
)
from benchmarks.paper.report import draw, markdown, rows
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import load_lm

_MAY_CHANGE = frozenset(
    {
        *("backbones", "classifiers", "skipped_states", "thresholds"),
        *("device", "batch_size", "output_path"),
    }
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; a signal during training ends it with 128 + its number."""
    options = _parser().parse_args(argv)
    from dynamax_lm.harness.plugin.errors import install_one_line_errors
    from dynamax_lm.heads.train.trainer import Stopped

    install_one_line_errors()
    try:
        run(options)
    except Stopped as stopped:
        sys.stderr.write(f"dynamax_lm: {stopped}\n")
        sys.exit(128 + stopped.number)


def run(options: argparse.Namespace) -> None:
    """Train and evaluate what is left, then write the table and the plot."""
    folder = Path(options.output_path)
    plan = list(
        points(
            [read_backbone(text) for text in options.backbones],
            options.classifiers,
            options.skipped_states,
            options.thresholds,
        )
    )
    _same_experiment(folder, options)
    for backbone, some in groupby(plan, key=lambda point: point.backbone):
        left = [point for point in some if not point.file(folder).is_file()]
        for classifier in dict.fromkeys(point.classifier for point in left):
            _train(backbone, next(p for p in left if p.classifier == classifier), folder, options)
        if left:
            _evaluate(backbone, left, folder, options)
    found = [
        row
        for point in plan
        for row in rows(json.loads(point.file(folder).read_text(encoding="utf-8")))
    ]
    write_text(folder / "rows.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "table.md", markdown(found))
    draw(found, folder / "paper.png")
    print(markdown(found))


def _same_experiment(folder: Path, options: argparse.Namespace) -> None:
    """Refuse to mix points of two experiments in one folder; its grid alone may grow."""
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


def _train(backbone: Backbone, point: Point, folder: Path, options: argparse.Namespace) -> None:
    from dynamax_lm.heads.train.command import train

    target = point.heads(folder)
    if (target / "config.json").is_file() and not (target / "checkpoint.pt").exists():
        return
    argv = ["--model", backbone.model, "--model_args", _model_args(backbone, options)]
    argv += ["--head", point.classifier, "--width", options.width, "--output_path", str(target)]
    argv += ["--max_steps", str(options.max_steps), "--seed", str(options.seed)]
    if options.device:
        argv += ["--device", options.device]
    if options.train_data:
        argv += ["--data", options.train_data]
    train(argv + shlex.split(options.train_args))


def _evaluate(
    backbone: Backbone, left: Sequence[Point], folder: Path, options: argparse.Namespace
) -> None:
    """Every point of one backbone, with one loaded model."""
    import lm_eval

    lm = load_lm(
        backbone.model,
        f"{_model_args(backbone, options)},heads={left[0].heads(folder)}",
        batch_size=options.batch_size,
        device=options.device,
    )
    for number, point in enumerate(left, 1):
        lm.change(
            heads=str(point.heads(folder)),
            threshold=point.threshold,
            skipped_state=point.skipped_state,
        )
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=list(options.tasks),
            limit=options.limit,
            log_samples=False,
            random_seed=options.seed,
            numpy_random_seed=options.seed,
            torch_random_seed=options.seed,
            fewshot_random_seed=options.seed,
        )
        kept = {
            "backbone": f"{backbone.model}, {backbone.pretrained}",
            "classifier": point.classifier,
            "state": point.skipped_state,
            "threshold": point.threshold,
            "limit": options.limit,
            "results": _tasks_only(results),
            "early_exit": results["config"]["early_exit"],
        }
        write_text(point.file(folder), json.dumps(kept, indent=1, default=str) + "\n")
        print(f"[{number}/{len(left)}] {point.file(folder)}")


def _tasks_only(results: dict[str, Any]) -> dict[str, Any]:
    """Results of tasks; those of groups are averages of these."""
    groups = results.get("groups", {})
    return {name: found for name, found in results["results"].items() if name not in groups}


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
    add("--width", default="full", help="of the classifiers, as in heads.train")
    add("--model_args", default="", help="of every backbone, such as dtype=bfloat16")
    add("--train_data", help="for heads.train --data; its default if left out")
    add("--train_args", default="", help="further options of heads.train, as one text")
    add("--max_steps", type=int, default=2000, help="of each set of heads")
    add("--limit", type=int, help="documents of each task")
    add("--batch_size", type=int, default=8)
    add("--device", help="a GPU if there is one, else cpu")
    add("--seed", type=int, default=0)
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    main()
