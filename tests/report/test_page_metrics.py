"""A task with several metrics has one row for each setting on the page, with all of them in it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from synthetic import GENERATION, Made, Plan, write_run

from dynamax_lm.report.leaderboard import Leaderboard, build
from dynamax_lm.report.load import load
from dynamax_lm.report.page import leaderboard_page

FIRST, SECOND = "em", 'f"1'


def with_second_metric(made: Made, gap: float) -> None:
    """Adds a metric, whose name no attribute may contain unescaped, to a run's only task."""
    data = made.data()
    ((task, table),) = data["results"].items()
    for of in ("", "full_depth_"):
        for end, more in (("", gap), ("_stderr", 0.0)):
            table[f"{of}{SECOND}{end},none"] = table[f"{of}{FIRST}{end},none"] + more
        data["higher_is_better"][task][f"{of}{SECOND}"] = True
    data["configs"][task]["metric_list"].insert(0, {"metric": SECOND})
    made.change(data)
    path = made.samples[task]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for of in ("", "full_depth_"):
            line[f"{of}{SECOND}"] = line[f"{of}{FIRST}"] + gap
        line["metrics"] += [SECOND, f"full_depth_{SECOND}"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def made_board(folder: Path, more: float = 0.125) -> Leaderboard:
    for number, threshold in enumerate((0.3, 0.6)):
        plan = Plan(threshold=threshold, tasks={"gen": GENERATION}, seed=number)
        with_second_metric(write_run(folder / str(threshold), plan), more)
    return build(load([folder]))


def rows_of_page(page: str) -> list[str]:
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [html.unescape(row) for row in re.findall(r"<tr id.*?</tr>", body, re.DOTALL)]


def plain(cell: str) -> str:
    return " ".join(
        re.sub(r"<wbr>|<[^>]*>", lambda tag: "" if "wbr" in tag[0] else " ", cell).split()
    )


def test_a_row_has_every_metric_of_its_setting(tmp_path: Path) -> None:
    board = made_board(tmp_path)
    rows = rows_of_page(leaderboard_page(board, runs=2))
    assert (len(board.entries), len(rows)) == (4, 2)
    for row in rows:
        (entry,) = (
            e for e in board.entries if e.row.setting in plain(row) and e.row.key.metric == FIRST
        )
        value = entry.row.quality.mean
        found = plain(row)
        assert f"{SECOND} {value + 0.125:.3f}" in found, "the task's first metric is told too"
        assert f"{FIRST} {value:.3f}" in found
        assert found.index(f"{SECOND} {value + 0.125:.3f}") < found.index(f"{FIRST} {value:.3f}")
        assert found.count(f"{entry.row.layers_used.mean:.1f} / 8") == 1, (
            "equal values are told once"
        )
        quality = re.findall(r'data-key="quality" data-sort="([^"]*)"', row)
        assert [float(one) for one in quality] == [value + 0.125]


def test_links_to_each_metric_and_filters_by_it_find_the_row(tmp_path: Path) -> None:
    board = made_board(tmp_path)
    page = leaderboard_page(board, runs=2)
    anchors = re.findall(r'id="(row-[0-9a-f]+)"', page)
    assert len(set(anchors)) == len(anchors) == len(board.entries)
    told = re.findall(r'data-metric="([^"]*)"', page)
    assert [json.loads(html.unescape(one)) for one in told] == [[SECOND, FIRST]] * 2
    options = page.partition('data-filter="metric"')[2].partition("</select>")[0]
    assert {html.unescape(one) for one in re.findall(r"<option>([^<]*)", options)} == {
        FIRST,
        SECOND,
    }


def test_equal_values_are_told_for_each_metric(tmp_path: Path) -> None:
    board = made_board(tmp_path, more=0.0)
    for row in rows_of_page(leaderboard_page(board, runs=2)):
        (value,) = {
            float(one) for one in re.findall(r'data-key="quality" data-sort="([^"]*)"', row)
        }
        assert all(f"{name} {value:.3f}" in plain(row) for name in (FIRST, SECOND))


def test_a_task_with_one_metric_says_its_value_without_the_name(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(tasks={"gen": GENERATION}))
    (row,) = rows_of_page(leaderboard_page(build(load([tmp_path])), runs=1))
    assert 'class="line"' not in row
