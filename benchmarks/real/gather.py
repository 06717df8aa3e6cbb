"""``python -m benchmarks.real.gather``: hidden states of a checkpoint's answers and of text.

    python -m benchmarks.real.gather --model_args pretrained=SmolLM2 --train_data DATA/train \
        --eval_data DATA/eval --parts 40 --output_path runs/real/states

A part that is finished is not made again, so that the command can be ended at any time; the study
uses the parts that are there.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.criteria import states as stored
from benchmarks.criteria.collect import collect_prompts
from benchmarks.criteria.prompts import Prompt, test_prompts
from benchmarks.real.long_answers import long_prompts
from benchmarks.real.records import Mix, Part, parts
from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.command_line import load_lm
from dynamax_lm.settings.exits import read_exit_layers

_WINDOW = 256


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    from dynamax_lm.harness.plugin.errors import install_one_line_errors

    install_one_line_errors()
    options = _parser().parse_args(argv)
    folder = Path(options.output_path)
    lm = load_lm(options.model, f"{options.model_args},mode=full,heads=none", batch_size=32)
    lm.model.requires_grad_(False)
    exits = read_exit_layers(options.exit_layers).place(int(lm.config.num_hidden_layers))
    if options.test:
        _test(lm, exits, folder / options.name, options)
        return
    data = Path(options.train_data), Path(options.eval_data)
    made = parts(*data, folder / "records", options.parts, Mix(*options.mix))
    numbers = range(options.begin, options.parts)
    fork = multiprocessing.get_context("fork")  # the model is loaded once
    workers = [
        fork.Process(
            target=_parts, args=(lm, exits, made, numbers[begin :: options.processes], options)
        )
        for begin in range(1, options.processes)
    ]
    for worker in workers:
        worker.start()
    _parts(lm, exits, made, numbers[:: options.processes], options)
    for worker in workers:
        worker.join()


def _parts(
    lm: Any,
    exits: tuple[int, ...],
    made: Sequence[Part],
    numbers: Sequence[int],
    options: argparse.Namespace,
) -> None:
    """Make those of ``numbers`` that are not finished."""
    for number in numbers:
        place = Path(options.output_path) / f"train-{number:02}"
        if stored.complete(place):
            continue
        windows = _windows(lm.tok_encode, made[number].texts, Mix(*options.mix).text_tokens)
        collect_prompts(
            *(lm, _asked(lm, made[number].prompts, options), exits, place),
            dtype="float16",
            batch_size=options.batch_size,
            windows=windows,
            prompts_too=not options.long,
        )
        print(f"{place}: {len(stored.read(place).token)} tokens", flush=True)


def _test(lm: Any, exits: tuple[int, ...], folder: Path, options: argparse.Namespace) -> None:
    """The evaluation records that the package's samples do not have, a limit for each task."""
    limits = dict(zip(("triviaqa", "coqa", "truthfulqa"), options.test, strict=True))
    prompts = []
    for one in test_prompts(
        Path(options.eval_data), folder.parent / f"tasks-{folder.name}", max(limits.values()), None
    ):
        limits[one.task] -= 1
        prompts += [one] if limits[one.task] >= 0 else []
    if stored.complete(folder):
        raise SettingError(f"--output_path={folder.parent}: holds the test states already")
    prompts = _asked(lm, prompts, options)
    collect_prompts(lm, prompts, exits, folder, dtype="float32", batch_size=options.batch_size)


def _asked(lm: Any, prompts: list[Prompt], options: argparse.Namespace) -> list[Prompt]:
    """The prompts, or the same questions to be answered at length."""
    return long_prompts(lm.tokenizer, prompts, options.long) if options.long else prompts


def _windows(encode: Any, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """The beginnings of the texts, each of at most a window, until there are enough tokens."""
    found: list[list[int]] = []
    for text in texts:
        ids = list(encode(text))[:_WINDOW]
        if tokens <= 0:
            break
        if ids:
            found.append(ids)
            tokens -= len(ids)
    return sorted(found, key=len)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real.gather",
        description="Hidden states to train and test heads on; started again, it goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=("dynamax-mistral", "dynamax-mamba"), default="dynamax-mistral")
    add("--model_args", required=True)
    add("--exit_layers", default="10+" + "+".join(map(str, range(12, 30))), help="to keep")
    add("--train_data", required=True, help="folder of the training records")
    add("--eval_data", required=True, help="folder of the tasks' records")
    add("--parts", type=int, default=40, help="of the training data")
    add(
        "--mix",
        type=int,
        nargs=4,
        default=list(Mix()),
        metavar=("TRIVIAQA", "TRUTHFULQA", "COQA", "TEXT_TOKENS"),
        help="prompts of each task, and tokens of text, in a part",
    )
    add("--begin", type=int, default=0, help="with this part")
    add("--processes", type=int, default=1, help="that share the parts")
    add(
        "--test",
        type=int,
        nargs=3,
        metavar=("TRIVIAQA", "COQA", "TRUTHFULQA"),
        help="so many test documents of each task, in place of the training parts",
    )
    add(
        "--long",
        type=int,
        default=0,
        metavar="TOKENS",
        help="ask TriviaQA's questions through the chat template, for answers of up to so many "
        "tokens, whose prompts are not kept",
    )
    add("--name", default="test", help="of the folder of test states; begins with test")
    add("--batch_size", type=int, default=32)
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    main()
