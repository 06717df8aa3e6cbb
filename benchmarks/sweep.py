"""What sharing saves: several thresholds in one sweep against one run, in one process.

    python benchmarks/sweep.py dynamax-mistral tiny dynamax_coqa_sample 8 skipped_state=recompute

A run is one ``simple_evaluate`` of the loaded model without shared parts; a sweep is ten that share
them, once as the command runs it and once with one threshold at a time. All include lm-eval's own
work, and the answers of both sweeps are compared. Seconds are of the processor and rounds
alternate; only ratios within one process are meaningful.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from dynamax_lm.harness.command_line import Command, add_lm_eval_options
from dynamax_lm.models.runner import EngineRunner, Runner
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from dynamax_lm.reuse.threshold_batching import TOKENS_AT_ONCE

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


class Recorder:
    """Records what every request emitted, and at which layers.

    Args:
        runner: answers the requests.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def score(self, *given: Any, **options: Any) -> Any:
        """The runner's answers."""
        return self._noted(self._runner.score(*given, **options))

    def generate(self, *given: Any, **options: Any) -> Any:
        """The runner's answers."""
        return self._noted(self._runner.generate(*given, **options))

    def _noted(self, answers: Any) -> Any:
        self.seen += [(answer.trace.emitted, answer.trace.layers_used) for answer in answers]
        return answers


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

    def seconds(
        thresholds: Sequence[float], runner: Runner, reuse: ReuseRunner | None = None
    ) -> float:
        start = time.process_time()
        with lm.answered_by(runner):
            for number, threshold in enumerate(thresholds, start=1):
                lm.change(threshold=threshold)
                if reuse is not None:
                    reuse.expect(thresholds[number:])
                command.evaluate(lm, command.model_args, bootstrap_iters=0)
        return time.process_time() - start

    plain = EngineRunner()
    seconds([0.7], plain)  # warms up
    rounds: list[tuple[float, float, float]] = []
    for number in range(options.rounds):
        one = statistics.mean(seconds([threshold], plain) for threshold in (0.5, 0.7, 0.95))
        reuse = {at_once: ReuseRunner(tokens_at_once=at_once) for at_once in (0, options.together)}
        order = sorted(reuse, reverse=number % 2 == 1)  # the second is a little slower
        took, answers = {}, {}
        for at_once in order:
            answers[at_once] = Recorder(reuse[at_once])
            took[at_once] = seconds(THRESHOLDS, answers[at_once], reuse[at_once])
        pairs = list(zip(*(one.seen for one in answers.values()), strict=True))
        rounds.append((one, took[0], took[options.together]))
        print(
            "one run {:.2f} s, ten thresholds {:.2f} s by themselves, {:.2f} s together; "
            "{} of {} answers differ;".format(
                *rounds[-1], sum(one != other for one, other in pairs), len(pairs)
            ),
            reuse[options.together].origins,
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
