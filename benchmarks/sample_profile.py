"""Where the time of a sample's answers goes, by kind of operator, under several settings.

    python -m benchmarks.sample_profile --model dynamax-mistral --task dynamax_triviaqa_sample \
        --settings "full depth: mode=full" "exits: exit_rule=fixed_depth,exit_layers=12" \
        --output_path benchmarks/speed/profile/after.json

A model with random weights of the default shape of ``dynamax_lm.bench`` and the embedded model's
tokenizer answers with one thread: once by processor time, once under torch's profiler. Models and
tasks are reached as lm-eval names them, so that the file also runs over an older version of the
package (``--pretrained`` is then a checkpoint that a run with ``--keep`` saved).
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_KINDS = {"products": ("linear", "mm", "addmv"), "attention": ("scaled_dot",)}
LAYERS = {"dynamax-mistral": 16, "dynamax-mamba": 24}
"""Of the benchmarks' models."""
_CLASSES = {"dynamax-mistral": "DynamaxMistral", "dynamax-mamba": "DynamaxMamba"}


def kind_of(operator: str) -> str:
    """``products``, ``attention`` or ``all else``, of an operator of torch."""
    return next(
        (kind for kind, parts in _KINDS.items() if any(part in operator for part in parts)),
        "all else",
    )


def measure(lm: Any, task: str, tasks: str, limit: int) -> dict[str, Any]:
    """Processor seconds of answering, then the share of each kind of operator."""
    requests = _requests(task, tasks, limit)
    seconds = processor_seconds(lambda: lm.generate_until(requests))
    averages = profiled(lambda: lm.generate_until(requests))
    taken: Counter[str] = Counter()
    for one in averages:
        taken[kind_of(one.key)] += one.self_cpu_time_total
    whole = sum(taken.values())
    return {
        "processor_seconds": round(seconds, 2),
        "operator_seconds": round(whole / 1e6, 2),
        "shares": {kind: round(value / whole, 3) for kind, value in sorted(taken.items())},
        "operators": sum(one.count for one in averages),
    }


def _requests(task: str, tasks: str, limit: int) -> list[Any]:
    """The requests of the task's first documents, as lm-eval builds them."""
    from lm_eval.tasks import TaskManager, get_task_dict

    (built,) = get_task_dict(
        [task], TaskManager(include_path=tasks, include_defaults=False)
    ).values()
    built.set_fewshot_seed(seed=1234)  # lm-eval's default
    built.build_all_requests(limit=limit, rank=0, world_size=1)
    return list(built.instances)


def processor_seconds(run: Callable[[], Any]) -> float:
    """Of this process, during one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def profiled(run: Callable[[], Any]) -> Any:
    """Torch's averages of the operators of one call."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    return seen.key_averages()


def save(model: str, folder: str) -> None:
    """A checkpoint of the benchmark's shape, with the embedded model's tokenizer."""
    from dynamax_lm.bench.runs import saved
    from dynamax_lm.bench.subject import Shape, make_subject

    subject = make_subject(
        *(model, Shape(LAYERS[model], 1024, 8192)),
        dtype=torch.float32,
        device="cpu",
        seed=0,
        rounds=1,
        quick=False,
        products="plain",
    )
    with saved(subject) as scratch:
        shutil.copytree(scratch, folder, dirs_exist_ok=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.pretrained or options.keep or scratch
        if not options.pretrained:
            save(options.model, folder)
        lms = importlib.import_module("dynamax_lm.models.lm")
        make = getattr(lms, _CLASSES[options.model]).create_from_arg_string
        package = Path(str(lms.__file__)).parents[1]
        found = {}
        for setting in options.settings:
            name, _, arguments = (part.strip() for part in setting.partition(":"))
            lm = make(
                f"pretrained={folder},dtype=float32,{arguments}", {"batch_size": 8, "device": "cpu"}
            )
            tasks = options.tasks_path or str(package / "tasks")
            found[name] = {"setting": arguments} | measure(lm, options.task, tasks, options.limit)
            print(name, found[name], flush=True)
    record = {"model": options.model, "task": options.task, "documents": options.limit}
    path = Path(options.output_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"settings": found}, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sample_profile",
        description="Operators of a sample's answers under several settings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=sorted(_CLASSES), default="dynamax-mistral")
    add("--task", default="dynamax_triviaqa_sample")
    add("--tasks_path", help="folder of the task's file, in place of the package's")
    add("--limit", type=int, default=16, help="documents")
    add("--settings", nargs="+", required=True, metavar="NAME: ARGUMENTS")
    add("--pretrained", help="a checkpoint, in place of one that is drawn")
    add("--keep", help="folder for the drawn checkpoint")
    add("--output_path", required=True, help="the JSON file")
    return parser


if __name__ == "__main__":
    main()
