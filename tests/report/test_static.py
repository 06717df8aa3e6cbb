"""The static rival: its depth is the ledger's, its quality measured or unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import COSTS, GENERATION, Plan, write_run

from dynamax_lm.ledger import Ledger, norm_flops, unembed_flops
from dynamax_lm.report.load import load
from dynamax_lm.report.paired import against_static
from dynamax_lm.report.recompute import documents_again, totals_again
from dynamax_lm.report.rows import Row, arenas, rows_of
from dynamax_lm.report.static import (
    FULL_DEPTH,
    Gain,
    StaticRival,
    equal_cost_depth,
    judged_by_pairs,
    static_rival,
)
from dynamax_lm.summary import TaskTotals
from dynamax_lm.tracefile import read_trace

ONE = {"gen": GENERATION}


def _arena(folder: Path) -> list[Row]:
    (arena,) = arenas(rows_of(load([folder]).runs))
    return arena


def _static(layer: int, **more: object) -> Plan:
    """A run in which every token leaves at ``layer``: the only exit, and no full depth."""
    settings = {"exit_layers": [layer], "threshold": 0, **more}
    return Plan(settings=settings, tasks=ONE)


@given(
    layer=st.integers(1, 7),
    seed=st.integers(0, 99),
    state=st.sampled_from(["copy_kv", "propagate"]),
)
def test_the_rivals_depth_costs_what_the_row_does(
    tmp_path_factory: pytest.TempPathFactory, layer: int, seed: int, state: str
) -> None:
    """Bill tokens that all leave at one layer: a model of the rival's depth costs the same."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"exit_layers": [layer], "skipped_state": state}
    made = write_run(folder, Plan(seed=seed, tasks=ONE, settings=settings))
    lines = [x._replace(layers_used=layer) for x in read_trace(made.traces / "trace_gen.jsonl")]
    documents = documents_again(lines, Ledger(COSTS, exit_layers=[layer], skipped_state=state))
    data = made.data()
    totals = totals_again(documents, TaskTotals(), 1).to_json()
    data["config"]["early_exit"]["tasks"]["gen"] = totals
    made.change(data)
    depth = equal_cost_depth(_arena(folder)[0])
    assert depth is not None
    emission = norm_flops(COSTS) + unembed_flops(COSTS)
    places = [line.prompt_tokens + line.position for line in lines]
    again = sum(depth * COSTS.layer(place) + emission for place in places)
    spent = totals["ledger"]["flops"]["full_depth"] * (1 - totals["flops_saved"])
    assert again == pytest.approx(spent)
    if state == "copy_kv":  # which costs nothing
        assert depth == pytest.approx(layer)
    else:
        assert depth > layer, "state that nobody reads is the row's burden, not its rival's"


def test_without_static_runs_the_quality_is_unknown(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(tasks=ONE, exits=(1,)))
    arena = _arena(tmp_path)
    rival = static_rival(arena[0], arena)
    assert rival is not None
    assert (rival.quality, rival.agreement, rival.verdict) == (None, None, "unknown")
    assert "threshold=0,exit_layers=1 " in rival.source, "the run that would tell"


def test_between_measured_depths_the_quality_lies_between_theirs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    for layer, gain in ((1, 10.0), (7, 50.0)):
        plan = _static(layer)
        plan.gain = gain
        write_run(tmp_path / str(layer), plan)
    arena = _arena(tmp_path)
    row = next(row for row in arena if row.kind == "dynamic")
    rival = static_rival(row, arena)
    assert rival is not None
    assert rival.quality is not None
    assert 1 < rival.depth < 7
    low, high = (
        next(r.quality.mean for r in arena if r.setting.startswith(f"always layer {layer}"))
        for layer in (1, 7)
    )
    share = (rival.depth - 1) / 6
    assert rival.quality == pytest.approx(low + share * (high - low))
    assert rival.verdict in {"does not beat", "mixed"}


def test_the_interpolated_rival_is_paired_by_document(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    for layer in (1, 7):
        write_run(tmp_path / str(layer), replace(_static(layer), seed=layer))
    library = load([tmp_path])
    (arena,) = arenas(rows_of(library.runs))
    row = next(row for row in arena if row.kind == "dynamic")
    rival = static_rival(row, arena)
    assert rival is not None
    assert rival.quality is not None
    assert rival.agreement is not None
    assert row.agreement is not None
    assert sum(weight for _, weight in rival.mixture) == pytest.approx(1)
    quality, agreement = against_static(library, row, rival)
    assert quality.difference is not None
    assert agreement.difference is not None
    assert quality.difference.mean == pytest.approx(row.quality.mean - rival.quality)
    assert agreement.difference.mean == pytest.approx(row.agreement.mean - rival.agreement)
    assert quality.difference.low < quality.difference.mean < quality.difference.high


def test_full_depth_is_the_upper_end_of_what_is_known(tmp_path: Path) -> None:
    """A depth between the last static run and L lies between that run and the row's reference."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    write_run(tmp_path / "b", _static(1))
    library = load([tmp_path])
    (arena,) = arenas(rows_of(library.runs))
    row = next(row for row in arena if row.kind == "dynamic")
    rival = static_rival(row, arena)
    assert rival is not None
    assert rival.mixture[1][0] is None
    assert row.full_depth is not None
    static = next(r for r in arena if r.kind == "static")
    share = (rival.depth - 1) / 7
    expected = (1 - share) * static.quality.mean + share * row.full_depth.mean
    assert rival.quality == pytest.approx(expected)
    (quality, _) = against_static(library, row, rival)
    assert quality.difference is not None
    assert quality.difference.mean == pytest.approx(row.quality.mean - expected)


def test_a_static_run_speaks_for_every_skipped_state(tmp_path: Path) -> None:
    """No layer above its exit ever runs; where there are two, the one like the row is taken."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    write_run(tmp_path / "b", replace(_static(1, skipped_state="copy_kv"), gain=5.0))
    for name, run in (("b", "copy_kv"), ("c", "propagate")):
        if name == "c":
            write_run(tmp_path / "c", replace(_static(1), gain=9.0))
        arena = _arena(tmp_path)
        rival = static_rival(next(row for row in arena if row.kind == "dynamic"), arena)
        assert rival is not None
        lower = rival.mixture[0][0]
        assert lower is not None
        assert lower.run.settings["skipped_state"] == run


def test_a_setting_that_costs_more_than_full_depth_never_beats_it(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE, exits=(7,)))
    data = made.data()
    totals = data["config"]["early_exit"]["tasks"]["gen"]
    totals["flops_saved"] = -0.1
    table = data["results"]["gen"]
    table["agreement,none"] = 1.0
    table["em,none"] = table["full_depth_em,none"]
    made.results.write_text(json.dumps(data))
    arena = _arena(tmp_path)
    rival = static_rival(arena[0], arena)
    assert rival is not None
    assert (rival.source, rival.verdict, rival.depth) == (FULL_DEPTH, "does not beat", 8)


def test_without_widths_nothing_is_said(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    data = made.data()
    del data["config"]["early_exit"]["costs"]
    made.change(data)
    arena = _arena(tmp_path)
    assert static_rival(arena[0], arena) is None


ENDS = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(
    lambda pair: Gain("em", min(pair), max(pair))
)


@given(gains=st.lists(ENDS, min_size=1, max_size=2), costlier=st.booleans())
def test_only_an_interval_without_zero_decides(gains: list[Gain], costlier: bool) -> None:
    point = StaticRival(3.0, 0.5, 0.9, "measured", "beats")
    verdict = judged_by_pairs(point, gains, costlier=costlier).verdict
    assert (verdict in {"beats", "mixed"}) == any(gain.low > 0 for gain in gains)
    turned = judged_by_pairs(
        point, [Gain("em", -high, -low) for _, low, high in gains], costlier=costlier
    )
    swapped = {"beats": "does not beat", "does not beat": "beats"}
    if not costlier:
        assert turned.verdict == swapped.get(verdict, verdict)
    elif not any(gain.low > 0 for gain in gains):
        assert verdict == "does not beat"


def test_without_pairs_the_means_keep_their_say() -> None:
    point = StaticRival(3.0, 0.5, 0.9, "measured", "beats")
    assert judged_by_pairs(point, [], costlier=False) == point


def test_a_verdict_names_the_metrics_that_made_it() -> None:
    point = StaticRival(3.0, 0.5, 0.9, "measured", "unknown")
    gains = [Gain("em", -0.2, 0.1), Gain("agreement", 0.02, 0.1)]
    judged = judged_by_pairs(point, gains, costlier=False)
    assert (judged.verdict, judged.told_by) == ("beats", ("agreement",))
