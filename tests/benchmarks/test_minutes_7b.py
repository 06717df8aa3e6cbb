"""Minutes on the 7B models follow from tokens, the ledger and the measured step."""

from __future__ import annotations

import pytest

from benchmarks.ledger_7b import MISTRAL
from benchmarks.minutes_7b import MODELS, ROWS, TASKS, minutes, table

SPEED = MODELS["Mistral 7B v0.3"]


def test_minutes_are_flops_over_the_rate_and_steps_of_the_measured_length() -> None:
    task = TASKS[0]._replace(records=10, answer=4.0)
    flops, prompts, answers, reference = minutes(task, SPEED, [7, 13], rate=1e12)
    assert flops == pytest.approx(5 * (MISTRAL.prompt(7) + MISTRAL.prompt(13)) / 1e15)
    assert prompts == pytest.approx(1000 * flops / 60)
    assert answers == pytest.approx(10 * 4 / ROWS * SPEED.step / 60)
    assert 0 < reference < 40 * MISTRAL.prompt(20) / 1e12 / 60


def test_the_sum_is_of_the_tasks() -> None:
    lines = table({task.name: [100, 200] for task in TASKS}, rate=1e14).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    first = [row for row in rows if row[0] == "Mistral 7B v0.3"]
    parts, whole = first[:-1], first[-1]
    assert whole[1] == "all"
    assert float(whole[-1]) == pytest.approx(sum(float(row[-1]) for row in parts), abs=0.21)
