"""What sharing saves: several thresholds in one sweep against one run, in one process.

    python benchmarks/sweep.py dynamax-mistral tiny dynamax_coqa_sample 8 skipped_state=recompute

A run is one ``simple_evaluate`` of the loaded model without a memory; a sweep is ten with one, once
as the command goes about it and once with every threshold by itself. All include what lm-eval does
around the model, and the answers of both sweeps are held against each other. Seconds are of the
processor and rounds alternate; ratios of one process are all that they are good for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from dynamax_lm.common.commandline import Command, add_lm_eval_options
from dynamax_lm.core.beside import TOKENS_AT_ONCE
from dynamax_lm.core.memory import Memory
from dynamax_lm.core.trace import AnswerTrace

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


class Answers:
    """Takes down what every request emitted, and where."""

    def __init__(self) -> None:
        self.seen_so_far: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def seen(self, stack: Any, prompts: Any, traces: Sequence[AnswerTrace]) -> None:
        """A batch was answered."""
        self.seen_so_far += [(trace.emitted, trace.layers_used) for trace in traces]


def main() -> None:
    """Print the seconds and ratios of each round, then their medians."""
    options = _parser().parse_args()
    given = ",".join(filter(None, [f"pretrained={options.pretrained}", options.further]))
    parser = argparse.ArgumentParser()
    add_lm_eval_options(parser)
    args = ["--model", options.model, "--model_args", given, "--tasks", options.task]
    args += ["--limit", options.limit, "--batch_size", options.batch_size]
    args += ["--gen_kwargs", options.gen_kwargs] if options.gen_kwargs else []
    command = Command(parser.parse_args(args))
    lm = command.load(command.model_args)

    def seconds(thresholds: Sequence[float], memory: Memory | None) -> float:
        lm.memory = memory
        start = time.process_time()
        for number, threshold in enumerate(thresholds, start=1):
            lm.change(threshold=threshold)
            if memory is not None:
                memory.beside.thresholds = thresholds[number:]
            command.evaluate(lm, command.model_args, bootstrap_iters=0)
        return time.process_time() - start

    seconds([0.7], None)  # warms up
    rounds: list[tuple[float, float, float]] = []
    for number in range(options.rounds):
        one = statistics.mean(seconds([threshold], None) for threshold in (0.5, 0.7, 0.95))
        memories = {at_once: Memory(tokens_at_once=at_once) for at_once in (0, options.together)}
        order = sorted(memories, reverse=number % 2 == 1)  # who comes second is a little slower
        took, answers = {}, {}
        for at_once in order:
            lm.watcher = answers[at_once] = Answers()
            took[at_once] = seconds(THRESHOLDS, memories[at_once])
        pairs = list(zip(*(one.seen_so_far for one in answers.values()), strict=True))
        rounds.append((one, took[0], took[options.together]))
        print(
            "one run {:.2f} s, ten thresholds {:.2f} s by themselves, {:.2f} s together; "
            "{} of {} answers differ;".format(
                *rounds[-1], sum(one != other for one, other in pairs), len(pairs)
            ),
            memories[options.together].origins,
            flush=True,
        )
    alone_ratio = statistics.median(alone / one for one, alone, _ in rounds)
    ratio = statistics.median(together / one for one, _, together in rounds)
    print(f"median: ten thresholds cost {alone_ratio:.2f} runs by themselves, {ratio:.2f} together")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "pretrained", "task", "limit"):
        parser.add_argument(name)
    parser.add_argument("further", nargs="?", default="", help="further model arguments")
    parser.add_argument("--batch_size", default="8")
    parser.add_argument("--gen_kwargs", default="")
    parser.add_argument("--tokens_at_once", type=int, default=TOKENS_AT_ONCE, dest="together")
    parser.add_argument("--rounds", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
