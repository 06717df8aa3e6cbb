"""A baseline's quality is measured, mixed from measured depths, or unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from static_groups import ONE, baseline_of, group_of, static_plan
from synthetic import Plan, write_run

from dynamax_lm.report.cells import baseline_text
from dynamax_lm.report.depth_bills import bill_of
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.paired import against_static, mean_cost
from dynamax_lm.report.rows import comparison_groups, rows_of
from dynamax_lm.report.static_baseline import FULL_DEPTH, OWN_FULL_DEPTH, static_baselines


def test_without_static_runs_the_quality_is_unknown(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(tasks=ONE, exits=(1,)))
    group = group_of(tmp_path)
    baseline = baseline_of(group[0], group)
    assert baseline is not None
    assert (baseline.quality, baseline.agreement, baseline.verdict) == (None, None, "unknown")
    assert "threshold=0,exit_layers=1 " in baseline.source, "the run that would tell"


def test_between_measured_depths_the_quality_lies_between_theirs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    for layer, gain in ((1, 0.1), (7, 0.5)):
        plan = static_plan(layer)
        plan.gain, plan.scale = gain, 0.5
        write_run(tmp_path / str(layer), plan)
    group = group_of(tmp_path)
    row = next(row for row in group if row.kind == "dynamic")
    baseline = baseline_of(row, group)
    assert baseline is not None
    assert baseline.quality is not None
    assert 1 < baseline.depth < 7
    low, high = (
        next(r.quality.mean for r in group if r.setting.startswith(f"always layer {layer}"))
        for layer in (1, 7)
    )
    share = (baseline.depth - 1) / 6
    assert baseline.quality == pytest.approx(low + share * (high - low))
    assert baseline.verdict == "not tested", "before documents are paired"


def test_the_interpolated_baseline_is_paired_by_document(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    for layer in (1, 7):
        write_run(tmp_path / str(layer), replace(static_plan(layer), seed=layer))
    library = load([tmp_path])
    (group,) = comparison_groups(rows_of(library.runs))
    row = next(row for row in group if row.kind == "dynamic")
    baseline = baseline_of(row, group)
    assert baseline is not None
    assert baseline.quality is not None
    assert baseline.agreement is not None
    assert row.agreement is not None
    assert sum(weight for _, weight in baseline.mixture) == pytest.approx(1)
    quality, agreement = against_static(library, row, baseline)
    assert quality.difference is not None
    assert agreement.difference is not None
    assert quality.difference.mean == pytest.approx(row.quality.mean - baseline.quality)
    assert agreement.difference.mean == pytest.approx(row.agreement.mean - baseline.agreement)
    assert quality.difference.low < quality.difference.mean < quality.difference.high


def test_documents_without_text_take_part_by_what_their_stop_did(tmp_path: Path) -> None:
    """Left out they would choose the documents by what the setting answered."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE, silent=3, documents=8))
    for layer in (1, 7):
        write_run(tmp_path / str(layer), replace(static_plan(layer), documents=8))
    library = load([tmp_path])
    (group,) = comparison_groups(rows_of(library.runs))
    row = next(row for row in group if row.kind == "dynamic")
    baseline = baseline_of(row, group)
    assert baseline is not None
    _, agreement = against_static(library, row, baseline)
    assert agreement.difference is not None
    assert agreement.difference.documents == 8
    samples = library.samples(row.run, "gen") or []
    stops = [s.metrics["agreement_with_stop"] for s in samples if "agreement" not in s.metrics]
    assert len(stops) == 3
    told = [s.metrics["agreement"] for s in samples if "agreement" in s.metrics]
    mean = (sum(told) + sum(stop == 1 for stop in stops)) / 8
    saved = [s.metrics.get("flops_saved", s.metrics["flops_saved_with_stop"]) for s in samples]
    costs = [cost for _, cost in baseline.path]
    depths = [1.0 if part is None else part.agreement.mean for part, _ in baseline.path]
    spent, points = 1 - sum(saved) / 8, list(zip(costs, depths, strict=True))
    theirs = max(
        float(np.interp(spent, [low, high], [less, more]))
        for (low, less), (high, more) in combinations(points, 2)
        if low <= spent <= high
    )
    assert agreement.difference.mean == pytest.approx(mean - theirs)


@pytest.mark.parametrize("silent", [0, 10, 20])
def test_what_is_printed_is_what_was_tested(tmp_path: Path, silent: int) -> None:
    """The depth, and the agreement of both sides, are of the same documents as the difference."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE, silent=silent, documents=40))
    for layer in (1, 7):
        write_run(tmp_path / str(layer), replace(static_plan(layer), documents=40))
    library = load([tmp_path])
    board = build(library)
    entry = next(one for one in board.entries if one.row.kind == "dynamic")
    row, (baseline, _) = entry.row, entry.baselines
    gaps = {one.metric: one.difference for one in board.comparisons if one.against == baseline.name}
    assert gaps["agreement"] is not None
    assert gaps["em"] is not None
    assert baseline.agreement is not None
    assert baseline.row_agreement is not None
    assert baseline.quality is not None
    tested = pytest.approx(gaps["agreement"].mean)
    assert baseline.row_agreement - baseline.agreement == tested
    assert row.quality.mean - baseline.quality == pytest.approx(gaps["em"].mean)
    bill, spent = bill_of(row, "answer"), mean_cost(library, row, "answer")
    assert bill is not None
    assert spent is not None
    assert bill.at(baseline.depth) == pytest.approx(spent)
    assert row.agreement is not None
    same = row.agreement.mean == pytest.approx(baseline.row_agreement)
    assert same == (silent == 0)
    text = baseline_text(baseline, row.agreement)
    assert ("documents without text included" in text) == (silent > 0)
    assert 0 <= baseline.agreement <= 1


def test_full_depth_is_the_upper_end_of_what_is_known(tmp_path: Path) -> None:
    """A depth between the last static run and L lies between that run and the row's reference."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    write_run(tmp_path / "b", static_plan(1))
    library = load([tmp_path])
    (group,) = comparison_groups(rows_of(library.runs))
    row = next(row for row in group if row.kind == "dynamic")
    baseline = baseline_of(row, group)
    assert baseline is not None
    assert baseline.mixture[1][0] is None
    assert row.full_depth is not None
    static = next(r for r in group if r.kind == "static")
    share = (baseline.depth - 1) / 7
    expected = (1 - share) * static.quality.mean + share * row.full_depth.mean
    assert baseline.quality == pytest.approx(expected)
    (quality, _) = against_static(library, row, baseline)
    assert quality.difference is not None
    assert quality.difference.mean == pytest.approx(row.quality.mean - expected)


def test_a_static_run_speaks_for_every_skipped_state(tmp_path: Path) -> None:
    """No layer above its exit ever runs; where there are two, the one like the row is taken."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    write_run(tmp_path / "b", replace(static_plan(1, skipped_state="copy_kv"), gain=0.1, scale=0.5))
    for name, run in (("b", "copy_kv"), ("c", "propagate")):
        if name == "c":
            write_run(tmp_path / "c", replace(static_plan(1), gain=0.5, scale=0.5))
        group = group_of(tmp_path)
        baseline = baseline_of(next(row for row in group if row.kind == "dynamic"), group)
        assert baseline is not None
        lower = baseline.mixture[0][0]
        assert lower is not None
        assert lower.run.settings["skipped_state"] == run


def test_a_setting_that_costs_more_than_full_depth_never_beats_it(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE, exits=(7,)))
    data = made.data()
    table = data["results"]["gen"]
    table["flops_saved,none"] = table["flops_saved_total,none"] = -0.1
    table["agreement,none"] = 1.0
    table["em,none"] = table["full_depth_em,none"]
    made.results.write_text(json.dumps(data))
    group = group_of(tmp_path)
    for baseline in static_baselines(group[0], group):
        assert (baseline.source, baseline.depth) == (FULL_DEPTH, 8)
        assert baseline.verdict == "does not beat"
        assert baseline.name == OWN_FULL_DEPTH, "one comparison, whatever the account"
