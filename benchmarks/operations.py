"""Where a decoding step's time goes, by operation and shape: ours and transformers' ``generate``.

    python -m benchmarks.operations --dtype bfloat16 --batch_size 8,1 --output_path OUT

One thread decodes with a random model of the default shape of ``dynamax_lm.bench``. Seconds are of
runs without the profiler, in turns; shares are of one profiled run each, prompts included.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dynamax_lm.bench.decode import ours, theirs
from dynamax_lm.bench.limits import bare_products
from dynamax_lm.bench.subject import Shape, Subject, make_subject
from dynamax_lm.bench.timing import medians, per_step, samples
from dynamax_lm.common.outputs import write_text
from dynamax_lm.common.processor import processor_name

_PROMPT, _ROUNDS, _LINES = 32, 3, 22


def measure(subject: Subject, batch: int) -> str:
    """One line of milliseconds a step, and two tables of operations."""
    prompts, steps = subject.prompts(batch, _PROMPT), subject.steps
    long: dict[str, Any] = {
        "ours": ours(subject, prompts, 2 + steps),
        "transformers": theirs(subject, prompts, 2 + steps),
    }
    taken = samples(
        {
            **long,
            "ours short": ours(subject, prompts, 2),
            "transformers short": theirs(subject, prompts, 2),
            "products": bare_products(subject, batch),
            "F.linear": bare_products(subject, batch, plain=True),
        },
        _ROUNDS,
    )
    found = {name: per_step(f"{name} short", name, steps, taken) for name in long}
    found |= {name: medians(taken)[name] for name in ("products", "F.linear")}
    times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in found.items())
    pages = [f"{subject.name}, batch {batch}: {times}"]
    for name, run in long.items():
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            run()
        averages = seen.key_averages(group_by_input_shape=True)
        table = averages.table(
            sort_by="self_cpu_time_total",
            row_limit=_LINES,
            max_shapes_column_width=60,
            max_name_column_width=40,
        )
        pages.append(f"{name}, batch {batch}\n{table}")
    return "\n\n".join(pages)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    batches = [int(one) for one in options.batch_size.split(",")]
    with torch.inference_mode():
        subject = make_subject(
            *("dynamax-mistral", Shape(options.layers, 1024, 8192)),
            dtype=getattr(torch, options.dtype),
            device="cpu",
            seed=0,
            rounds=_ROUNDS,
            quick=False,
            batch=max(batches),
        )
        chosen = subject.stack.products.describe()["shapes"]
        lines = [f"{processor_name()}, one thread, torch {torch.__version__}."]
        lines += [f"{one['outputs']} x {one['inputs']}: {one['chosen']}" for one in chosen]
        page = "\n".join(lines)
        for batch in batches:
            page += "\n\n" + measure(subject, batch)
            write_text(Path(options.output_path) / f"{options.dtype}.txt", f"{page}\n")
    print(page)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations",
        description="Operations of a decoding step: ours and transformers'.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--batch_size", default="8,1", help="rows, between commas")
    add("--layers", type=int, default=16)
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    main()
