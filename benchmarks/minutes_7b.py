"""What the three tasks' full records would take on the 7B models, by the ledger.

    python -m benchmarks.minutes_7b --tokenizer FOLDER

Prompts are those of the package's samples, rendered as lm-eval renders them and counted with the
tokenizer of the 7B models; the full sets have as many records as published. The lengths of answers
are those that a small model gave on the same samples (``benchmarks/paper``). Prompts and the
full-depth reference run at a sustained rate of arithmetic, answers at measured milliseconds a step.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.ledger_7b import CODESTRAL, MISTRAL
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.core.costs import LayerCosts, unembed_flops

ROWS = 8
"""Rows of a decoding step."""


class FullTask(NamedTuple):
    """A task whose records a sample stands for.

    Attributes:
        name: of the full task.
        sample: the task with the sample's records.
        records: of the evaluation set, as published.
        answer: generated tokens a record, of SmolLM2-135M-Instruct on the sample.
    """

    name: str
    sample: str
    records: int
    answer: float


class Speed(NamedTuple):
    """How a model is evaluated.

    Attributes:
        costs: of its layers.
        step: seconds of a step of ``ROWS`` rows at full depth, measured on one H200.
    """

    costs: LayerCosts
    step: float


TASKS = (
    FullTask("dynamax_truthfulqa_gen", "dynamax_truthfulqa_gen_sample", 817, 1339 / 80),
    FullTask("dynamax_coqa", "dynamax_coqa_sample", 500, 576 / 64),
    FullTask("dynamax_triviaqa", "dynamax_triviaqa_sample", 17944, 469 / 100),
)
MODELS = {
    "Mistral 7B v0.3": Speed(MISTRAL, 7.1e-3),
    "Codestral Mamba 7B": Speed(CODESTRAL, 10.5e-3),
}


def minutes(task: FullTask, speed: Speed, lengths: Sequence[int], rate: float) -> list[float]:
    """Prompts, answers and reference of one evaluation.

    Args:
        task: the full task.
        speed: of the model.
        lengths: tokens of each prompt of the sample.
        rate: sustained FLOP/s of prompts and the reference.

    Returns:
        PFLOPs of all prompts, then minutes of prompts, answers, and the reference's parallel pass
        over the answers, whose prompts are shared.
    """
    records = task.records / len(lengths)
    prompts = records * sum(speed.costs.prompt(length) for length in lengths)
    steps = task.records * task.answer / ROWS
    # A token beyond the prompt, at the mean context: one more prompt position each.
    middle = round(sum(lengths) / len(lengths))
    token = speed.costs.prompt(middle + 1) - speed.costs.prompt(middle) + unembed_flops(speed.costs)
    reference = task.records * task.answer * token
    seconds = prompts / rate, steps * speed.step, reference / rate
    return [prompts / 1e15, *(one / 60 for one in seconds)]


def table(lengths: dict[str, list[int]], rate: float) -> str:
    """Each model and task, and the sum of each model.

    Args:
        lengths: tokens of each prompt, by task.
        rate: sustained FLOP/s.
    """
    header = ["model", "task", "records", "prompt tokens", "PFLOPs of prompts"]
    lines = []
    for model, speed in MODELS.items():
        rows = [minutes(task, speed, lengths[task.name], rate) for task in TASKS]
        for task, row in zip(TASKS, rows, strict=True):
            mean = sum(lengths[task.name]) / len(lengths[task.name])
            lines.append(
                [model, f"`{task.name}`", f"{task.records:,}", f"{mean:.0f}", *_cells(row)]
            )
        whole = [sum(column) for column in zip(*rows, strict=True)]
        lines.append([model, "all", f"{sum(t.records for t in TASKS):,}", "", *_cells(whole)])
    return markdown_table([*header, "minutes: prompts", "answers", "reference", "all"], lines)


def _cells(row: Sequence[float]) -> list[str]:
    flops, *parts = row
    return [f"{flops:,.0f}", *(f"{one:.1f}" for one in (*parts, sum(parts)))]


def prompt_lengths(tokenizer: str) -> dict[str, list[int]]:
    """Tokens of each prompt of the samples, as lm-eval renders them."""
    from lm_eval.tasks import get_task_dict
    from transformers import AutoTokenizer

    from dynamax_lm.harness.plugin.task_folder import own_tasks

    encode = AutoTokenizer.from_pretrained(tokenizer)
    found: dict[str, list[int]] = {}
    for task in TASKS:
        (loaded,) = get_task_dict([task.sample], own_tasks()).values()
        loaded.build_all_requests(rank=0, world_size=1)
        found[task.name] = [len(encode(one.args[0]).input_ids) for one in loaded.instances]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minutes_7b", description=__doc__)
    parser.add_argument("--tokenizer", required=True, help="folder or name of the 7B models'")
    parser.add_argument("--rate", type=float, default=1e14, help="sustained FLOP/s")
    options = parser.parse_args(argv)
    print(table(prompt_lengths(options.tokenizer), options.rate))


if __name__ == "__main__":
    main()
