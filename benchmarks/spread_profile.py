"""Where a token's time goes when exits are spread over the layers, and what the ideal leaves out.

    python -m benchmarks.spread_profile --model dynamax-mistral --dtype float32 \
        --output_path benchmarks/speed/spread/divided_mistral_float32.json

The run of ``dynamax_lm.bench --parts continuous`` (random weights, exits taken evenly after seven
layers, 8 rows a step, 32 in flight), with one thread and by processor time. The ideal of that part
has 8 rows in every step. Here the rows of every step are counted, so that the time between the
ideal and the run divides into steps with fewer rows (the ideal's parts, measured at the rows that
occurred) and all else. Operators of both runs are profiled by kind.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.sample_profile import LAYERS, kind_of, profiled
from dynamax_lm.bench.continuous import (
    BATCH,
    CHECKS,
    SHORT,
    at_full_depth,
    exiting,
    seconds_a_token,
)
from dynamax_lm.bench.exits import layer_time, unembed_time
from dynamax_lm.bench.subject import Shape, Subject, make_subject
from dynamax_lm.bench.timing import use_clock
from dynamax_lm.common.outputs import write_json
from dynamax_lm.common.processor import processor_name
from dynamax_lm.engine.decode import Decoding

Steps = Mapping[tuple[int, int], int]
"""How often each (layers, rows) of a step occurs."""


@contextmanager
def steps_counted() -> Iterator[Counter[tuple[int, int]]]:
    """The steps that occur while the body runs."""
    seen: Counter[tuple[int, int]] = Counter()
    run = Decoding._run

    def counted(decoding: Decoding, first: int, last: int, rows: Sequence[int]) -> Tensor:
        seen[last - first, len(rows)] += 1
        return run(decoding, first, last, rows)

    with mock.patch.object(Decoding, "_run", counted):
        yield seen


def rows_a_step(steps: Steps) -> float:
    """The mean over steps."""
    return sum(rows * count for (_, rows), count in steps.items()) / sum(steps.values())


@contextmanager
def projections_counted(stack: Any) -> Iterator[Counter[int]]:
    """How often each number of rows is projected to the vocabulary while the body runs."""
    seen: Counter[int] = Counter()
    project = stack.unembed

    def counted(hidden: Tensor) -> Tensor:
        seen[hidden.shape[0]] += 1
        return project(hidden)

    with mock.patch.object(stack, "unembed", counted):
        yield seen


def at_rows(
    steps: Steps,
    projections: Mapping[int, int],
    layer: Mapping[int, float],
    projection: Mapping[int, float],
) -> float:
    """Seconds of layers and vocabulary projections.

    Args:
        steps: the steps.
        projections: how often each number of rows is projected.
        layer: seconds of a layer by the rows that run it.
        projection: of a projection, by rows.
    """
    run = sum(count * layers * layer[rows] for (layers, rows), count in steps.items())
    return run + sum(count * projection[rows] for rows, count in projections.items())


def shares(run: Any) -> dict[str, Any]:
    """Seconds and calls of each kind of operator in ``run()``."""
    taken: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for one in profiled(run):
        kind = kind_of(one.key)
        taken[kind] += one.self_cpu_time_total
        calls[kind] += one.count
    return {
        kind: {"seconds": round(value / 1e6, 4), "calls": calls[kind]}
        for kind, value in sorted(taken.items())
    }


def measure(subject: Subject, flight: int, tokens: int, confidence: str) -> dict[str, Any]:
    """The seconds of a token, divided; and both runs' operators."""
    layers, prompts = subject.layers, subject.prompts(flight, 32)
    counted = []
    for new in (SHORT, SHORT + tokens):
        with steps_counted() as steps, projections_counted(subject.stack) as projections:
            exiting(subject, prompts, confidence, new)()
        counted.append((steps, projections))
    steps, projections = (_more(long, short) for short, long in zip(*counted, strict=True))
    mine, full = seconds_a_token(subject, prompts, confidence, tokens)
    sizes = range(1, BATCH + 1)
    layer = {rows: layer_time(subject, rows, rows) for rows in sizes}
    look = {rows: unembed_time(subject, rows) for rows in sizes}
    emitted = flight * tokens
    run = sum(rows * passed * n for (passed, rows), n in steps.items())
    looks = sum(rows * n for rows, n in projections.items())
    state = (layers - run / emitted) * layer_time(subject, BATCH, 0) / BATCH
    return {
        "tokens": emitted,
        "layers_a_token": round(run / emitted, 3),
        "projections_a_token": round(looks / emitted, 3),
        "rows_a_step": round(rows_a_step(counted[1][0]), 3),
        "steps_by_rows": _by_rows(counted[1][0]),
        "milliseconds_a_token": {
            "full depth": _ms(full),
            "layers, 8 rows a step": _ms(run / emitted * layer[BATCH] / BATCH),
            "projections, 8 rows a step": _ms(looks / emitted * look[BATCH] / BATCH),
            "state of skipped layers": _ms(state),
            "layers and projections at the rows that occurred": _ms(
                at_rows(steps, projections, layer, look) / emitted
            ),
            "ours": _ms(mine),
        },
        "layer_milliseconds_by_rows": {rows: _ms(value) for rows, value in layer.items()},
        "projection_milliseconds_by_rows": {rows: _ms(value) for rows, value in look.items()},
        "operators": {
            "exits": shares(exiting(subject, prompts, confidence, SHORT + tokens)),
            "full depth": shares(at_full_depth(subject, prompts, SHORT + tokens)),
        },
    }


def _more(long: Counter[Any], short: Counter[Any]) -> dict[Any, int]:
    """What the longer run has more of; less where a kind of step is rarer in it."""
    return {key: long[key] - short[key] for key in long | short if long[key] != short[key]}


def _by_rows(steps: Steps) -> dict[int, int]:
    found: Counter[int] = Counter()
    for (_, rows), count in steps.items():
        found[rows] += count
    return dict(sorted(found.items()))


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 4)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    use_clock("processor")
    found: dict[str, Any] = {
        "hardware": f"{processor_name()}, torch {torch.__version__}, one thread, processor time",
        "model": options.model,
        "dtype": options.dtype,
    }
    with torch.inference_mode():
        subject = make_subject(
            *(options.model, Shape(options.layers or LAYERS[options.model], options.width, 8192)),
            dtype=getattr(torch, options.dtype),
            device="cpu",
            seed=0,
            rounds=options.rounds,
            quick=False,
            batch=BATCH,
        )
        for confidence, flight in itertools.product(CHECKS, options.rows_in_flight):
            name = f"{confidence}, {flight} in flight"
            found[name] = measure(subject, flight, options.tokens, confidence)
            print(f"{name}: {found[name]}", flush=True)
            write_json(Path(options.output_path), found, indent=1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spread_profile",
        description="What the time of spread exits consists of.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=sorted(LAYERS), default="dynamax-mistral")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--layers", type=int, help="as the benchmark has")
    add("--width", type=int, default=1024)
    add("--rows_in_flight", type=int, nargs="+", default=[32])
    add("--tokens", type=int, default=24, help="tokens of a row")
    add("--rounds", type=int, default=3)
    add("--output_path", required=True, help="the JSON file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
