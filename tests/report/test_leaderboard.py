"""Which row is held against which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.report.cells import baseline_text
from dynamax_lm.report.difference import Difference
from dynamax_lm.report.holm import holm
from dynamax_lm.report.leaderboard import Entry, build, corrected
from dynamax_lm.report.load import load
from dynamax_lm.report.paired import Comparison
from dynamax_lm.report.rows import Row, rows_of

ONE = {"gen": GENERATION}


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Row:
    folder = tmp_path_factory.mktemp("row")
    write_run(folder, Plan(tasks=ONE))
    return rows_of(load([folder]).runs)[0]


def test_a_row_is_held_against_its_own_full_depth(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    (one,) = build(load([tmp_path])).comparisons
    table = made.data()["results"]["gen"]
    assert one.difference is not None
    gap = table["em,none"] - table["full_depth_em,none"]
    assert abs(one.difference.mean - gap) < 1e-12


def test_a_baseline_is_held_against_every_row_or_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(tasks=ONE, documents=6))
    write_run(tmp_path / "b", Plan(tasks=ONE, documents=6, threshold=0.9))
    write_run(tmp_path / "c", Plan(tasks=ONE, documents=6, threshold=0.9, few_shot=5))
    board = build(load([tmp_path / "a"]), load([tmp_path / "b", tmp_path / "c"]))
    against = [one for one in board.comparisons if "own full depth" not in one.against]
    assert [one.difference is None for one in against] == [bool(one.reason) for one in against]
    assert sorted(one.reason for one in against) == ["", "other few-shot: 0 against 5"]


def _entry(folder: Path) -> Entry:
    return next(e for e in build(load([folder])).entries if e.row.kind == "dynamic")


def _verdict(folder: Path, gain: float, theirs: float) -> str:
    """Of a dynamic setting and static depths whose documents differ by the gains alone.

    Full depth, near which the baseline with prompts lies, is what the setting itself answers.
    """
    common = {"seed": 4, "tasks": ONE, "documents": 100, "scale": 0.1, "right": 1.0}
    write_run(folder / "a", Plan(gain=gain, **common))  # type: ignore[arg-type]
    for layer in (1, 7):
        settings = {"exit_layers": [layer], "threshold": 0}
        plan = Plan(gain=theirs, settings=settings, **common)  # type: ignore[arg-type]
        write_run(folder / str(layer), plan)
    return _entry(folder).baselines[0].verdict


def test_a_verdict_goes_by_paired_documents(tmp_path: Path) -> None:
    """The runs agree with full depth alike, and differ in the metric by the gain."""
    assert _verdict(tmp_path / "more", 0.8, 0.0) == "beats"
    assert _verdict(tmp_path / "less", 0.0, 0.8) == "is worse"
    assert _verdict(tmp_path / "same", 0.0, 0.0) == "not distinguishable"


def test_without_samples_there_is_no_verdict(tmp_path: Path) -> None:
    for name in ("a", "1", "7"):
        settings = {} if name == "a" else {"exit_layers": [int(name)], "threshold": 0}
        made = write_run(tmp_path / name, Plan(seed=4, tasks=ONE, settings=settings))
        made.samples["gen"].unlink()
    for one in _entry(tmp_path).baselines:
        assert one.verdict == "not tested"
        assert "no verdict" in baseline_text(one)


def test_a_lower_metric_that_is_better_is_turned(tmp_path: Path) -> None:
    _verdict(tmp_path, 0.8, 0.0)
    for path in tmp_path.rglob("results_*.json"):
        data = json.loads(path.read_text())
        data["higher_is_better"]["gen"]["em"] = False
        path.write_text(json.dumps(data))
    assert _entry(tmp_path).baselines[0].verdict == "is worse"


def _comparison(name: str, p_higher: float, p_lower: float, row: Row) -> Comparison:
    return Comparison(row, name, "x", Difference(9, 9, 0.0, -1.0, 1.0, p_higher, p_lower, 9), "")


@given(st.lists(st.tuples(st.floats(0, 0.1), st.booleans()), min_size=1, max_size=12))
def test_more_comparisons_never_show_more(row: Row, drawn: list[tuple[float, bool]]) -> None:
    """Each p-value alone, and among the others of its page."""
    pairs = [(p, 1.0) if up else (1.0, p) for p, up in drawn]
    every = [_comparison(str(i), *pair, row) for i, pair in enumerate(pairs)]
    together = corrected(every)
    smallest = min(p for p, _ in drawn)
    for one, alone in zip(together, every, strict=True):
        if one.shown:
            assert corrected([alone])[0].shown == one.shown
    assert any(one.shown for one in together) == (
        min(holm([p for p, _ in pairs]) + holm([p for _, p in pairs])) <= 0.025
    )
    if smallest * len(drawn) <= 0.025:
        assert any(one.shown for one in together)


def test_comparisons_that_were_refused_or_are_too_few_do_not_count(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(documents=5))
    write_run(tmp_path / "b", Plan(documents=5, threshold=0.9, few_shot=5))
    board = build(load([tmp_path]))
    assert board.comparisons
    assert board.tested == 0
    assert not any(one.shown for one in board.comparisons)


@pytest.mark.parametrize("other", [Plan(few_shot=5), Plan(version=2.0), Plan(documents=4)])
def test_runs_that_were_not_asked_the_same_stand_apart_with_the_reason(
    tmp_path: Path, other: Plan
) -> None:
    other.threshold = 0.9
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", other)
    apart = build(load([tmp_path])).apart
    assert [one.task for one in apart] == ["gen", "mc"], "metrics of a task are told once"
    assert all(one.reason.startswith("other ") for one in apart)
    assert all(one.settings == "1 setting against 1 setting" for one in apart)


def test_without_a_reference_a_plain_run_stands_in(tmp_path: Path) -> None:
    made = write_run(tmp_path / "a", Plan(tasks=ONE))
    made.results.write_text(made.results.read_text().replace("full_depth_em", "left_out"))
    write_plain(tmp_path / "b", Plan(tasks=ONE))
    comparisons = build(load([tmp_path])).comparisons
    assert [one.against for one in comparisons if one.row.key.metric == "em"] == [
        "org/model: full depth (hf)"
    ]
