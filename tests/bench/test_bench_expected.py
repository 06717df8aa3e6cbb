"""The benchmark says how long it takes before it begins."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dynamax_lm.bench.__main__ import PARTS, main
from dynamax_lm.bench.expected import Pace, Work
from dynamax_lm.bench.parts import TABLE
from dynamax_lm.bench.subject import Shape, Subject, make_subject

PACE = Pace({1: 0.04, 8: 0.06}, {1: 0.05, 8: 0.1}, 0.002, 0.004)


def _subject(kind: str, **options: Any) -> Subject:
    settings = {"rounds": 2, "quick": False, "products": "plain"} | options
    shape = Shape(4, 256, 64)
    return make_subject(kind, shape, dtype=torch.float32, device="cpu", seed=0, **settings)


def _all(subject: Subject, pace: Pace = PACE, one_pass: float = 0.1) -> dict[str, float]:
    work = Work(subject, pace, [1, 8], one_pass)
    return {part: TABLE[part].seconds(work) for part in PARTS}


def test_the_command_names_the_parts_of_the_table_in_order() -> None:
    assert tuple(TABLE) == PARTS


@pytest.mark.parametrize("kind", ["dynamax-mistral", "dynamax-mamba"])
def test_every_part_has_seconds_that_grow_with_its_work(kind: str) -> None:
    subject = _subject(kind)
    found = _all(subject)
    assert {part for part, seconds in found.items() if not seconds} == (
        {"scan"} if subject.attention else set()
    )
    slow = Pace(
        {rows: 2 * seconds for rows, seconds in PACE.step.items()},
        {rows: 2 * seconds for rows, seconds in PACE.their_step.items()},
        2 * PACE.token,
        2 * PACE.their_token,
    )
    slower, longer = _all(subject, slow, 0.2), _all(replace(subject, rounds=40))
    for part, seconds in found.items():
        if part in ("documents", "memory"):  # with a start that does not depend on the model
            assert seconds < slower[part] < 2 * seconds
        else:
            assert slower[part] == pytest.approx(2 * seconds)
        assert longer[part] > seconds or part == "memory" or not seconds
    assert sum(_all(replace(subject, quick=True)).values()) < sum(found.values()) / 2


def test_the_estimate_is_printed_before_the_first_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--model", "dynamax-mistral", "--parts", "scoring"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (said,) = (at for at, line in enumerate(lines) if line.startswith("1 part, by a short trial"))
    (begun,) = (at for at, line in enumerate(lines) if line.startswith("[1/1]"))
    assert said < begun
