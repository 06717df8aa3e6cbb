"""``python -m dynamax_lm.bench``: speed of the decoders, as ratios within one process.

Random weights of a given shape are measured unless ``--model_args`` names a checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynamax_lm.common.durations import in_words
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.common.outputs import writable_folder
from dynamax_lm.harness.plugin.errors import install_one_line_errors
from dynamax_lm.settings import read_products
from dynamax_lm.settings.values import hint

PARTS = (
    *("decode", "exits", "continuous", "scoring", "prompts", "scan", "context"),
    *("documents", "runs", "memory"),
)
_RANDOM = ("dynamax-mistral", "dynamax-mamba")
MODELS = (*_RANDOM, "dynamax")
_OF_A_CHECKPOINT = ("decode", "exits", "continuous", "scoring", "prompts", "context")
_ARGUMENTS = "dtype=..., pretrained=... (default random), products=auto, packed or plain"
_WHOLE_RUNS = frozenset({"continuous", "documents", "runs", "memory"})
_QUICK_PARTS = tuple(part for part in PARTS if part not in _WHOLE_RUNS)
"""Without whole runs, which take minutes on any machine."""
_ROUNDS, _QUICK_ROUNDS = 5, 2
_DEFAULT_SHAPE = {"dynamax-mistral": (16, 1024, 8192), "dynamax-mamba": (24, 1024, 8192)}
_QUICK_SHAPE = {"dynamax-mistral": (4, 256, 1024), "dynamax-mamba": (4, 256, 1024)}


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.bench",
        description="Ratios of seconds in one process: our engine, transformers, and the limits.",
        example="python -m dynamax_lm.bench --quick\n"
        "python -m dynamax_lm.bench --model dynamax-mamba --model_args dtype=bfloat16 "
        "--parts decode,exits",
    )
    add = made.add_argument_group("model").add_argument
    add("--model", default=None, help=f"one of {', '.join(MODELS)}; default both random ones")
    add("--model_args", default="", help=_ARGUMENTS)
    add("--device", default=None, help="default: a GPU where there is one, else cpu")
    add("--layers", type=int, default=None, help="layers of the random model")
    add("--width", type=int, default=None, help="its width, a multiple of 256")
    add("--vocabulary", type=int, default=None, help="its vocabulary")
    add("--seed", type=int, default=0, help="of its weights")
    add = made.add_argument_group("measurement").add_argument
    add(
        "--parts",
        default=None,
        help=f"any of {','.join(PARTS)} (default: all; with --quick those without whole runs)",
    )
    add("--batch_size", default="1,8", help="rows of the decode measurements")
    add(
        "--rounds",
        type=int,
        default=None,
        help=f"runs behind each median (default: {_ROUNDS}, with --quick {_QUICK_ROUNDS})",
    )
    add("--threads", type=int, default=None, help="processor threads of torch")
    add(
        "--clock",
        default="wall",
        help="wall, or processor: this process's own time, for one thread on a busy machine",
    )
    add(
        "--quick",
        action="store_true",
        help="tiny shapes and few rounds, within a minute: to see that it works, not to publish",
    )
    made.add_argument_group("output").add_argument(
        "--output_path", default=None, help="folder for bench.json and bench.md"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    install_one_line_errors()
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parser().parse_args(words)
    kinds = _names("model", given.model, MODELS) if given.model else list(_RANDOM)
    parts = _names("parts", given.parts, _QUICK_PARTS if given.quick else PARTS, known=PARTS)
    if given.rounds is None:
        given.rounds = _QUICK_ROUNDS if given.quick else _ROUNDS
    batches = _batches(given.batch_size)
    from dynamax_lm.settings.model_args import read_model_args

    extra = read_model_args(given.model_args, ("dtype", "pretrained", "products"))
    extra["products"] = read_products(extra.get("products"))
    if "dynamax" in kinds:
        if "pretrained" not in extra:
            raise SettingError("--model dynamax has no random model; give pretrained=...")
        parts = [part for part in parts if part in _OF_A_CHECKPOINT]
    if given.output_path is not None:
        writable_folder(given.output_path)
    if given.rounds < 1:
        raise SettingError(f"rounds={given.rounds}: at least 1")
    [clock] = _names("clock", given.clock, ("wall", "processor"))
    command = shlex.join(["python", "-m", "dynamax_lm.bench", *words])
    _measure_all(given, _Asked(kinds, parts, batches, extra, clock), command)
    print(f"next: {next_step(given)}")
    return 0


class _Asked(NamedTuple):
    """What a command measures, of options that were checked.

    Attributes:
        kinds: of models.
        parts: names of what is measured.
        batches: rows of the ``decode`` measurements.
        extra: arguments of the models.
        clock: ``wall`` or ``processor``.
    """

    kinds: list[str]
    parts: list[str]
    batches: list[int]
    extra: dict[str, str]
    clock: str


def _measure_all(given: argparse.Namespace, asked: _Asked, command: str) -> None:
    """Say how long it takes, measure every part of every model, and print or write the rows."""
    import torch

    from dynamax_lm.bench.limits import bandwidth
    from dynamax_lm.bench.parts import TABLE, expected_seconds
    from dynamax_lm.bench.rows import Hardware, Products, Row, markdown, write
    from dynamax_lm.bench.timing import use_clock
    from dynamax_lm.decoders.pretrained import check_device

    kinds, parts, batches, extra, clock = asked
    if given.threads is not None and given.threads < 1:
        raise SettingError(f"--threads {given.threads}: give at least 1")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    use_clock(clock)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    hardware = Hardware.here(bandwidth(device))
    print(hardware.sentence(), flush=True)
    rows: list[Row] = []
    products: list[Products] = []
    begun, total = itertools.count(1), len(kinds) * len(parts)
    expected: dict[str, dict[str, float]] = {}
    subject: Any = None
    use_clock("wall")  # what the reader waits
    for kind in reversed(kinds):  # so that the last model made is the first measured
        subject = None  # one model in memory at a time
        subject = _subject(given, kind, extra, device)
        expected[kind] = expected_seconds(subject, parts, batches)
    whole = sum(sum(some.values()) for some in expected.values())
    print(
        f"{total} part{'s' if total > 1 else ''}, by a short trial: {in_words(whole)}", flush=True
    )
    use_clock(clock)
    for kind in kinds:
        with torch.inference_mode():
            if subject.kind != kind:
                subject = None
                subject = _subject(given, kind, extra, device)
            products.append(Products(subject.name, subject.stack.products.describe()))
            for shape in products[-1].chosen["shapes"]:
                size = f"{shape['outputs']} x {shape['inputs']}"
                print(f"{subject.name}: {size}: {shape['chosen']} ({shape['why']})", flush=True)
            for part in parts:
                start = time.perf_counter()
                about = max(1, round(expected[kind][part]))
                told = f"{subject.name}: {part}, about {about} s"
                print(f"[{next(begun)}/{total}] {told}", flush=True)
                for row in TABLE[part].measure(subject, batches):
                    rows.append(row)
                    print("   " + " | ".join(row.cells()[1:]), flush=True)
                    if given.output_path:
                        write(Path(given.output_path), rows, hardware, command, products)
                print(f"   {time.perf_counter() - start:.0f} s", flush=True)
    if given.output_path:
        print(f"written to {write(Path(given.output_path), rows, hardware, command, products)}")
    else:
        print(markdown(rows, hardware, command, products))


def next_step(given: argparse.Namespace) -> str:
    """What to do with the measurement: its real shapes, a folder for it, or its page."""
    if given.quick:
        return "python -m dynamax_lm.bench --parts decode,exits --output_path bench"
    if given.output_path is None:
        return "the same command with --output_path FOLDER, which keeps what it measures"
    return f"open {Path(given.output_path) / 'bench.md'}"


def _subject(given: argparse.Namespace, kind: str, extra: dict[str, str], device: str) -> Any:
    from dynamax_lm.bench.subject import Shape, make_subject, wrap
    from dynamax_lm.decoders.pretrained import load_pretrained, number_format

    given_format = extra.get("dtype", "float32")
    dtype = number_format(given_format)
    options = {"rounds": given.rounds, "quick": given.quick, "seed": given.seed}
    options |= {"batch": max(_batches(given.batch_size)), "products": extra["products"]}
    if "pretrained" in extra:
        named = {"pretrained": extra["pretrained"], "dtype": given_format}
        model = load_pretrained(kind, named, device, tokenizer=False).model
        return wrap(kind, model.eval(), **options)
    if dtype == "auto":
        raise SettingError("dtype=auto: random weights have none of their own; give float32")
    layers, width, vocabulary = (_QUICK_SHAPE if given.quick else _DEFAULT_SHAPE)[kind]
    asked = (given.layers, given.width, given.vocabulary)
    usual = (layers, width, vocabulary)
    shape = Shape(*(one if one is not None else by for one, by in zip(asked, usual, strict=True)))
    if shape.width % 256 or shape.width < 256 or shape.layers < 4 or shape.vocabulary < 16:
        raise SettingError(f"{shape}: width is a multiple of 256, layers at least 4")
    return make_subject(kind, shape, dtype=dtype, device=device, **options)


def _names(
    option: str, value: str | None, usual: Sequence[str], known: Sequence[str] | None = None
) -> list[str]:
    """The names given, each one of ``known``, or the ``usual`` ones; by default all are usual."""
    allowed = usual if known is None else known
    names = list(usual) if value is None else [name for name in value.split(",") if name]
    for name in names:
        if name not in allowed:
            near = hint(name, allowed)
            raise SettingError(f"{option}={name!r}: none of {', '.join(allowed)}{near}")
    return names


def _batches(value: str) -> list[int]:
    batches = []
    for piece in value.split(","):
        with contextlib.suppress(ValueError):
            batches.append(int(piece))
    if not batches or min(batches) < 1 or len(batches) != len(value.split(",")):
        raise SettingError(f"batch_size={value!r}: give numbers of rows, such as 1,8")
    return batches


if __name__ == "__main__":
    raise SystemExit(main())
