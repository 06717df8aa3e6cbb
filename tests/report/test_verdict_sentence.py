"""Sentences repeat the table: the same numbers, and the table's corrected verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.report.cells import percent
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.pareto import pareto_marks
from dynamax_lm.report.verdict import ENOUGH, verdicts_of

ONE = {"gen": GENERATION}
WORDS = {
    "beats": "does worse",
    "is worse": "does better",
    "mixed": "does better in one metric and worse in another",
    "not distinguishable": "cannot be told from 60 documents",
    "unknown": "was not measured",
}


def _write(folder: Path, layers: tuple[int, ...] = (2, 5), right: float = 0.8) -> None:
    for threshold in (0.3, 0.6):
        plan = Plan(tasks=ONE, documents=60, threshold=threshold, right=right)
        write_run(folder / str(threshold), plan)
    for layer in layers:
        write_run(
            folder / f"static{layer}",
            Plan(tasks=ONE, documents=60, threshold=0, settings={"exit_layers": [layer]}),
        )


@pytest.mark.parametrize("layers", [(2, 5), ()])
@pytest.mark.parametrize("right", [0.55, 0.8, 0.99])
def test_a_sentence_says_what_the_table_says(
    tmp_path: Path, layers: tuple[int, ...], right: float
) -> None:
    _write(tmp_path, layers, right)
    board = build(load([tmp_path]))
    (sentence,) = verdicts_of(board)
    assert sentence.title == "org/model, gen"
    dynamic = [entry for entry in board.entries if entry.row.kind == "dynamic"]
    (entry,) = [one for one in dynamic if sentence.setting.startswith(f"{one.row.setting} (of 2")]
    row = entry.row
    assert row.flops_saved is not None
    assert row.agreement is not None
    assert percent(row.agreement) in sentence.text
    word = "saves" if row.flops_saved.mean >= 0 else "costs"
    assert f"Exiting early {word}" in sentence.text
    assert percent(row.flops_saved).lstrip("−") in sentence.text
    baseline = entry.baselines[0]
    if baseline.verdict in WORDS and baseline.source != "full depth is cheaper":
        assert WORDS[baseline.verdict] in sentence.text.partition(" With prompts")[0]
    close = [one for one in dynamic if one.row.agreement and one.row.agreement.mean >= ENOUGH]
    if close:
        assert row.agreement.mean >= ENOUGH
        assert row.flops_saved.mean == max(
            one.row.flops_saved.mean for one in close if one.row.flops_saved
        )
    else:
        assert row.agreement.mean == max(
            one.row.agreement.mean for one in dynamic if one.row.agreement
        )


def test_there_is_no_sentence_without_exits(tmp_path: Path) -> None:
    write_plain(tmp_path, Plan(tasks=ONE))
    assert verdicts_of(build(load([tmp_path]))) == []


def test_a_metric_that_never_differs_is_named(tmp_path: Path) -> None:
    for threshold in (0.3, 0.6):
        plan = Plan(tasks=ONE, documents=8, threshold=threshold, scale=0.0)
        write_run(tmp_path / str(threshold), plan)
    board = build(load([tmp_path]))
    (sentence,) = verdicts_of(board)
    assert "em is 0.000 under every setting, and tells nothing" in sentence.text
    group = [replace(entry.row, full_depth=entry.row.quality) for entry in board.entries]
    assert not any(marks.quality for marks in pareto_marks(group)), "it distinguishes no setting"
