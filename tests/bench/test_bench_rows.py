"""A table says what was measured, and scripted exits leave as scripted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from dynamax_lm.bench.__main__ import main, next_step, parser
from dynamax_lm.bench.continuous import Evenly
from dynamax_lm.bench.exits import EveryFew
from dynamax_lm.bench.rows import Hardware, Row, write
from dynamax_lm.bench.timing import alternate, per_step
from dynamax_lm.common.errors import SettingError

HARDWARE = Hardware("a processor", 2, 1, None, "2", "5", 1e10)


def row(ratio: float, goal: float | None, *, at_most: bool = False) -> Row:
    return Row("Part", "model", "work", "a / b", ratio, goal, at_most, {"a": 1.0})


@pytest.mark.parametrize(
    ("ratio", "goal", "at_most", "met"),
    [
        (2.0, 1.5, False, True),
        (1.0, 1.5, False, False),
        (1.0, 1.5, True, True),
        (2.0, 1.5, True, False),
    ],
)
def test_goals_are_bounds_from_either_side(
    ratio: float, goal: float, at_most: bool, met: bool
) -> None:
    assert row(ratio, goal, at_most=at_most).met is met
    assert row(ratio, None).met is None


def test_both_files_hold_every_row(tmp_path: Path) -> None:
    rows = [row(1.0, 2.0), row(3.0, None)]
    page = write(tmp_path / "new", rows, HARDWARE, "a command").read_text()
    known = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert [one["ratio"] for one in known["rows"]] == [1.0, 3.0]
    assert "a command" in page
    assert "a processor" in page
    assert page.count("| model | work |") == 2
    assert not list(tmp_path.glob("new/*.partial"))


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    names = ("a", "b")
    alternate({name: lambda name=name: calls.append(name) for name in names}, rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    taken = {"short": [1.0, 5.0, 2.0], "long": [3.0, 7.0, 6.0]}
    assert per_step("short", "long", 2, taken) == 1.0


def test_every_exit_is_taken_as_often() -> None:
    policy, tokens = Evenly((1, 2, 3), "top_prob", 0.5), 4000
    alive, left = tokens, []
    for exit in range(3):
        cutoffs = policy.cutoffs_at(range(alive))[:, exit]
        left.append(int(policy.exiting(torch.zeros(alive), cutoffs).sum()))
        alive -= left[-1]
    assert all(abs(count - tokens / 4) < 5 * 28 for count in [*left, alive])  # 5 deviations


def test_every_few_steps_one_stays() -> None:
    policy = EveryFew((1,), "top_prob", 0.5, every=3)
    left = [policy.exiting(torch.zeros(2)).tolist() for _ in range(6)]
    assert left == [[True] * 2, [True] * 2, [False] * 2] * 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "gpt"], "gpt"),
        (["--parts", "decode,all"], "all"),
        (["--batch_size", "1,x"], "1,x"),
        (["--model_args", "dtype"], "dtype"),
        (["--model_args", "dtype=float99"], "float99"),
        (["--width", "100"], "width"),
        (["--width", "0"], "width=0"),
        (["--layers", "0"], "layers=0"),
        (["--device", "banana"], "device=banana"),
        (["--clock", "sun"], "sun"),
    ],
)
def test_a_wrong_value_is_one_line(words: list[str], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        main([*words, "--quick"])


@pytest.mark.parametrize("model", ["dynamax-mistral", "dynamax-mamba"])
def test_it_measures(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", model, "--quick", "--rounds", "1", "--parts", "decode,scan"]
    assert main([*words, "--batch_size", "1", "--output_path", str(tmp_path)]) == 0
    known = json.loads((tmp_path / "bench.json").read_text())
    assert {one["part"] for one in known["rows"]} >= {"Decode"}
    assert all(isinstance(one["ratio"], float) for one in known["rows"])  # how large is no test
    said = capsys.readouterr().out
    assert "GB/s" in said
    assert re.findall(r"^\[(\d)/(\d)\] .*: (\w+), about \d+ s$", said, re.MULTILINE) == [
        ("1", "2", "decode"),
        ("2", "2", "scan"),
    ]


@pytest.mark.parametrize(
    ("words", "then"),
    [
        (["--quick", "--output_path", "out"], "python -m dynamax_lm.bench --parts"),
        (["--parts", "decode"], "--output_path FOLDER"),
        (["--output_path", "out"], "open out/bench.md"),
    ],
)
def test_it_says_what_comes_next(words: list[str], then: str) -> None:
    assert then in next_step(parser().parse_args(words))
