"""The final table shows the task's own metric beside ours, under the first filter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamax_lm.sweep.grid import Point
from dynamax_lm.sweep.run import How, Outcome
from dynamax_lm.sweep.table import sweep_table


def outcome(threshold: float, how: How, em: float) -> Outcome:
    reported: dict[str, Any] = {
        "alias": "t",
        "agreement,clean": 0.75,
        "agreement_with_stop,clean": 0.875,
        "flops_saved_with_stop,clean": 0.375,
        "stop_share,clean": 0.777,
        "consistency,clean": 0.5,
        "em,clean": em,
        "em_stderr,clean": 0.123,
        "em,raw": 0.999,
        "f1,clean": 0.888,
        "flops_saved,clean": -0.25,
        "full_depth_em,clean": 0.625,
        "layers_used,clean": 7.5,
    }
    results = {
        "results": {"task": reported, "rolling": {"word_perplexity,none": 9.5}},
        "configs": {"task": {"metric_list": [{"metric": "em"}]}, "rolling": {}},
    }
    point = Point((("confidence", "margin"), ("threshold", threshold)))
    return Outcome(point, Path(), how, 1.0, results)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_one_row_for_each_task_and_setting() -> None:
    text = sweep_table([outcome(0.5, "kept", 0.125), outcome(0.9, "run", 0.25)])
    headers, _, *rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert headers == [
        *("Task", "confidence", "threshold", "Metric", "Value", "Full depth"),
        *("Layers", "FLOPs saved", "Agreement", "Consistency"),
        *("FLOPs saved with stop", "Agreement with stop", "Point"),
    ]
    shown = [row[:4] + [float(cell) for cell in row[4:12]] + row[12:] for row in rows[:2]]
    assert shown == [
        ["task", "margin", "0.5", "em", 0.125, 0.625, 7.5, -0.25, 0.75, 0.5, 0.375, 0.875, "kept"],
        ["task", "margin", "0.9", "em", 0.25, 0.625, 7.5, -0.25, 0.75, 0.5, 0.375, 0.875, "run"],
    ]
    assert [row[:5] for row in rows[2:]] == [
        ["rolling", "margin", "0.5", "word_perplexity", "9.5000"],
        ["rolling", "margin", "0.9", "word_perplexity", "9.5000"],
    ]
    assert "0.123" not in text
    assert "0.999" not in text


def test_points_of_different_arguments_share_the_columns() -> None:
    first, second = outcome(0.5, "run", 0.5), outcome(0.9, "run", 0.25)
    second = replace(second, point=Point((("mode", "full"),)))
    head, _, *rows = sweep_table([first, second]).splitlines()
    place = cells(head).index("mode")
    assert [cells(row)[place] for row in rows[:2]] == ["", "full"]
    assert [cells(row)[place - 1] for row in rows[:2]] == ["0.5", ""]
    assert {len(cells(row)) for row in rows} == {len(cells(head))}


def test_lossless_points_have_their_speed_beside_those_without() -> None:
    first, second = outcome(0.5, "run", 0.5), outcome(0.9, "run", 0.25)
    assert "Speed" not in sweep_table([first, second])
    block = {"speed": {"documents": 4, "speedup": 1.375}}
    timed = replace(second, results={**second.results, "config": {"early_exit": block}})
    head, _, *rows = sweep_table([first, timed]).splitlines()
    place = cells(head).index("Speed")
    assert [cells(row)[place] for row in rows] == ["", "1.3750"] * 2
    assert {len(cells(row)) for row in rows} == {len(cells(head))}
