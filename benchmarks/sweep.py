"""What sharing saves: several thresholds in one sweep against one run, in one process.

    python benchmarks/sweep.py dynamax-mistral tiny dynamax_coqa_sample 8 skipped_state=recompute

The last argument, further model arguments, may be left out. A run is one ``simple_evaluate`` of the
loaded model without a memory; a sweep is ten with one. Both include all that lm-eval does around
the model. Seconds are of the processor and rounds alternate; ratios of one process are all that
they are good for.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from dynamax_lm.commandline import Command, add_lm_eval_options
from dynamax_lm.engine import Memory

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
ROUNDS = 2


def main(model: str, pretrained: str, task: str, limit: str, further: str = "") -> None:
    """Print the seconds and ratios of each round."""
    parser = argparse.ArgumentParser()
    add_lm_eval_options(parser)
    given = f"pretrained={pretrained}" + (f",{further}" if further else "")
    args = ["--model", model, "--model_args", given, "--tasks", task]
    command = Command(parser.parse_args([*args, "--limit", limit, "--batch_size", "8"]))
    lm = command.load(command.model_args)

    def seconds(thresholds: list[float]) -> float:
        start = time.process_time()
        for threshold in thresholds:
            lm.change(threshold=threshold)
            command.evaluate(lm, command.model_args, bootstrap_iters=0)
        return time.process_time() - start

    seconds([0.7])  # warms up
    ratios, plain = [], []
    for _ in range(ROUNDS):
        singles = []
        for threshold in (0.5, 0.7, 0.95):
            lm.memory = None
            singles.append(seconds([threshold]))
        lm.memory = Memory()
        sweep = seconds(THRESHOLDS)
        memory = lm.memory
        one = statistics.mean(singles)
        ratios.append(sweep / one)
        plain.append(one)
        print(
            f"one run {one:.2f} s, ten thresholds {sweep:.2f} s: {ratios[-1]:.2f} runs; "
            f"{memory.origins}"
        )
    print(f"median: ten thresholds cost {statistics.median(ratios):.2f} runs")


if __name__ == "__main__":
    main(*sys.argv[1:])
