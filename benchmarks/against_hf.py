"""Answers of uneven length, and questions after the same examples, against lm-eval's ``hf``.

    python -m benchmarks.against_hf --output_path benchmarks/speed/documents/against_hf.json

Two works of ``dynamax_lm.bench --parts documents`` on a model with random weights and the shape of
the benchmarks, where a step's time is its products; that part takes the embedded model, whose step
is mostly calls. Processor seconds of one thread, one run of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.sample_profile import LAYERS, processor_seconds
from dynamax_lm.bench.documents import BATCH, questions_of, shots, uneven
from dynamax_lm.bench.runs import saved
from dynamax_lm.bench.subject import Shape, make_subject
from dynamax_lm.common.outputs import write_json
from dynamax_lm.common.processor import processor_name
from dynamax_lm.harness.plugin.task_folder import own_tasks

WORKS = {"answers of 1 to 64 tokens": uneven, "after the same 5 shots": shots}


def measure(shape: Shape, count: int) -> dict[str, dict[str, float]]:
    """Seconds of each work of ``count`` documents, by who answers."""
    from lm_eval.models.huggingface import HFLM

    from dynamax_lm.models.lm import DynamaxMistral

    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "seed": 0, "rounds": 1}
    subject = make_subject("dynamax-mistral", shape, quick=False, batch=BATCH, **options)
    questions = questions_of(own_tasks())
    found: dict[str, dict[str, float]] = {}
    with saved(subject) as folder:
        shared = {"pretrained": str(folder), "dtype": "float32", "batch_size": BATCH}
        shared["device"] = "cpu"
        models = {"ours": DynamaxMistral(**shared, mode="full"), "hf": HFLM(**shared)}
        for what, make in WORKS.items():
            requests = make(questions, count)
            found[what] = {}
            for who, lm in models.items():
                answer = partial(lm.generate_until, requests, True)
                found[what][who] = round(processor_seconds(answer), 1)
                print(f"{what}: {who} {found[what][who]} s", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against_hf",
        description="Two works of many documents on a wide model, against lm-eval's hf.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--layers", type=int, default=LAYERS["dynamax-mistral"])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--output_path", required=True, help="the JSON file")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "hardware": f"{processor_name()}, torch {torch.__version__}, one thread, processor time",
        "model": f"mistral {options.layers}x{options.width} float32, batch size {BATCH}",
        "documents": options.documents,
    }
    record["seconds"] = measure(Shape(options.layers, options.width, 8192), options.documents)
    write_json(Path(options.output_path), record, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
