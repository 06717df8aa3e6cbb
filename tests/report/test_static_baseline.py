"""The static baselines: their depths are the ledger's, their quality measured or unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import COSTS, GENERATION, Plan, write_run

from dynamax_lm.common.tracefile import read_trace
from dynamax_lm.core.costs import norm_flops, unembed_flops
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.skipped_states import SkippedFacts
from dynamax_lm.core.totals import TaskTotals
from dynamax_lm.report.cells import baseline_text
from dynamax_lm.report.checks.recompute import documents_again, totals_again
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.paired import against_static, mean_cost
from dynamax_lm.report.rows import Row, comparison_groups, rows_of
from dynamax_lm.report.static_baseline import (
    ACCOUNTS,
    FULL_DEPTH,
    OWN_FULL_DEPTH,
    Account,
    Gain,
    StaticBaseline,
    _bill,
    cost_bounds,
    judged,
    static_baselines,
)

ONE = {"gen": GENERATION}


def equal_cost_depth(row: Row, account: Account = "answer") -> float | None:
    """The depth at which always leaving costs what the row did; above L it costs more than L."""
    bill = _bill(row, account)
    return None if bill is None else max(1.0, bill.depth(bill.spent))


def _group(folder: Path) -> list[Row]:
    (group,) = comparison_groups(rows_of(load([folder]).runs))
    return group


def _baseline(row: Row, group: list[Row], account: Account = "answer") -> StaticBaseline | None:
    return next((b for b in static_baselines(row, group) if b.account == account), None)


def _static(layer: int, **more: object) -> Plan:
    """A run in which every token leaves at ``layer``: the only exit, and no full depth."""
    settings = {"exit_layers": [layer], "threshold": 0, **more}
    return Plan(settings=settings, tasks=ONE)


@given(
    layer=st.integers(1, 7),
    seed=st.integers(0, 99),
    state=st.sampled_from(["copy_kv", "propagate"]),
)
def test_the_baselines_depth_costs_what_the_row_does(
    tmp_path_factory: pytest.TempPathFactory, layer: int, seed: int, state: str
) -> None:
    """Bill tokens that all leave at one layer: a model of the baseline's depth costs the same."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"exit_layers": [layer], "skipped_state": state}
    made = write_run(folder, Plan(seed=seed, tasks=ONE, settings=settings))
    lines = [x._replace(layers_used=layer) for x in read_trace(made.traces / "trace_gen.jsonl")]
    ledger = Ledger(COSTS, exit_layers=[layer], skipped_state=state)
    documents = documents_again(lines, ledger)
    data = made.data()
    totals = totals_again(documents, TaskTotals(), 1).to_json()
    data["config"]["early_exit"]["tasks"]["gen"] = totals
    shares = [1 - one.bill.flops_saved for one in documents.values() if one.bill]
    data["results"]["gen"]["flops_saved,none"] = 1 - sum(shares) / len(shares)
    made.change(data)
    depth = equal_cost_depth(_group(folder)[0])
    assert depth is not None
    emission = norm_flops(COSTS) + unembed_flops(COSTS)
    again = []
    texts = [line for line in lines if line.is_text]
    for number in {line.doc_id for line in texts}:
        places = [x.prompt_tokens + x.position for x in texts if x.doc_id == number]
        bodies, heads = sum(map(COSTS.layer, places)), emission * len(places)
        again.append((depth * bodies + heads) / (8 * bodies + heads))
    assert sum(again) / len(again) == pytest.approx(sum(shares) / len(shares), rel=0.02)
    if state == "copy_kv":  # which costs nothing
        assert depth == pytest.approx(layer, abs=0.1)
    else:
        assert depth > layer, "state that nobody reads is the row's burden, not its baseline's"


@given(
    dear=st.floats(0, 4),
    prompt=st.integers(0, 40),
    used=st.lists(st.sampled_from([2, 5, 8]), min_size=1, max_size=9),
    prompt_exit=st.none() | st.integers(1, 8),
    maps=st.sampled_from([0, 1, 10**6]),
)
def test_no_documents_cost_is_beyond_its_bounds(
    tmp_path_factory: pytest.TempPathFactory,
    dear: float,
    prompt: int,
    used: list[int],
    prompt_exit: int | None,
    maps: int,
) -> None:
    """Also where a policy from outside bills more for a skipped layer than the layer costs, or maps
    of a prompt token more than the layers that it skips.
    """
    maps = 0 if prompt_exit is None else maps * COSTS.width
    state = {"name": "my_states.py:Dear@0123456789ab", "flops": int(dear * COSTS.layer(0))}
    folder = tmp_path_factory.mktemp("run")
    made = write_run(folder, Plan(documents=2, tasks=ONE, exits=(2, 5)))
    data = made.data()
    block = data["config"]["early_exit"]
    block["settings"]["skipped_state"], block["costs"]["skipped_state"] = state["name"], state
    if prompt_exit is not None:
        block["settings"]["prompt_exit"] = prompt_exit
    if maps:
        block["settings"]["prompt_maps"], block["costs"]["prompt_maps"] = "some-maps", maps
    made.change(data)
    bounds = cost_bounds(_group(folder)[0])
    assert bounds is not None
    facts = SkippedFacts.from_record(state)
    ledger = Ledger(
        COSTS,
        exit_layers=[2, 5],
        skipped_state=facts,
        prompt_exit=prompt_exit,
        prompt_maps=maps,
    )
    bill = ledger.answer(prompt, used)
    for saved in (bill.flops_saved, bill.flops_saved_total):
        assert bounds.low <= 1 - saved <= bounds.high


def test_without_static_runs_the_quality_is_unknown(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(tasks=ONE, exits=(1,)))
    group = _group(tmp_path)
    baseline = _baseline(group[0], group)
    assert baseline is not None
    assert (baseline.quality, baseline.agreement, baseline.verdict) == (None, None, "unknown")
    assert "threshold=0,exit_layers=1 " in baseline.source, "the run that would tell"


def test_between_measured_depths_the_quality_lies_between_theirs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    for layer, gain in ((1, 0.1), (7, 0.5)):
        plan = _static(layer)
        plan.gain, plan.scale = gain, 0.5
        write_run(tmp_path / str(layer), plan)
    group = _group(tmp_path)
    row = next(row for row in group if row.kind == "dynamic")
    baseline = _baseline(row, group)
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
        write_run(tmp_path / str(layer), replace(_static(layer), seed=layer))
    library = load([tmp_path])
    (group,) = comparison_groups(rows_of(library.runs))
    row = next(row for row in group if row.kind == "dynamic")
    baseline = _baseline(row, group)
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
        write_run(tmp_path / str(layer), replace(_static(layer), documents=8))
    library = load([tmp_path])
    (group,) = comparison_groups(rows_of(library.runs))
    row = next(row for row in group if row.kind == "dynamic")
    baseline = _baseline(row, group)
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
        write_run(tmp_path / str(layer), replace(_static(layer), documents=40))
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
    bill, spent = _bill(row, "answer"), mean_cost(library, row, "answer")
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
    write_run(tmp_path / "b", _static(1))
    library = load([tmp_path])
    (group,) = comparison_groups(rows_of(library.runs))
    row = next(row for row in group if row.kind == "dynamic")
    baseline = _baseline(row, group)
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
    write_run(tmp_path / "b", replace(_static(1, skipped_state="copy_kv"), gain=0.1, scale=0.5))
    for name, run in (("b", "copy_kv"), ("c", "propagate")):
        if name == "c":
            write_run(tmp_path / "c", replace(_static(1), gain=0.5, scale=0.5))
        group = _group(tmp_path)
        baseline = _baseline(next(row for row in group if row.kind == "dynamic"), group)
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
    group = _group(tmp_path)
    for baseline in static_baselines(group[0], group):
        assert (baseline.source, baseline.depth) == (FULL_DEPTH, 8)
        assert baseline.verdict == "does not beat"
        assert baseline.name == OWN_FULL_DEPTH, "one comparison, whatever the account"


def test_with_prompts_the_baseline_is_deeper(tmp_path: Path) -> None:
    """It spares the layers that prompts pay above it, and a dynamic setting does not."""
    made = write_run(tmp_path, Plan(tasks=ONE, exits=(2,)))
    (row,) = _group(tmp_path)
    answer, total = (equal_cost_depth(row, account) for account in ACCOUNTS)
    assert answer is not None
    assert total is not None
    assert answer < total < 8
    totals = made.data()["config"]["early_exit"]["tasks"]["gen"]
    flops = totals["ledger"]["flops"]
    emission = totals["tokens"] * (norm_flops(COSTS) + unembed_flops(COSTS))
    whole = flops["prompt"] + flops["full_depth"]
    assert row.flops_saved_total is not None
    again = total / 8 * (whole - emission) + emission
    assert again == pytest.approx(whole * (1 - row.flops_saved_total.mean))


@pytest.mark.parametrize("account", ACCOUNTS)
def test_a_baseline_pays_for_the_translator_it_speaks_through(
    tmp_path: Path, account: Account
) -> None:
    """So that for the same FLOPs it is less deep."""
    write_run(tmp_path / "a", Plan(seed=4, tasks=ONE))
    depths = []
    for translator in (0, 300):
        made = write_run(tmp_path / "b", _static(1, heads="h", heads_fingerprint="ab"))
        data = made.data()
        extras = [{"classifier": 10**6, "translator": translator}]
        data["config"]["early_exit"]["costs"]["exit_extras"] = extras
        made.change(data)
        group = _group(tmp_path)
        row = next(row for row in group if row.kind == "dynamic")
        baseline = _baseline(row, group, account)
        assert baseline is not None
        depths.append(baseline.depth)
        (_, low), (_, high) = baseline.mixture
        bill = row.run.totals("gen")
        assert bill is not None
        flops = bill["ledger"]["flops"]
        whole = flops["full_depth"] + (flops["prompt"] if account == "total" else 0)
        emission = bill["tokens"] * (norm_flops(COSTS) + unembed_flops(COSTS))
        shallow = (whole - emission) / 8 + emission + bill["tokens"] * translator
        saved = row.flops_saved if account == "answer" else row.flops_saved_total
        assert saved is not None
        assert low * shallow + high * whole == pytest.approx(whole * (1 - saved.mean))
    assert depths[1] < depths[0]


def test_without_widths_nothing_is_said(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    data = made.data()
    del data["config"]["early_exit"]["costs"]
    made.change(data)
    group = _group(tmp_path)
    assert static_baselines(group[0], group) == ()


POINT = StaticBaseline("answer", 3.0, 0.5, 0.9, "measured", "not tested")
GAINS = st.sampled_from([(False, False), (True, False), (False, True)]).map(
    lambda pair: Gain("em", *pair)
)


@pytest.mark.parametrize(
    ("depth", "text"), [(3, "3.0"), (3.04, "3.04"), (3.06, "3.1"), (15.96, "15.96"), (8.63, "8.6")]
)
def test_a_fraction_never_reads_as_a_whole_depth(depth: float, text: str) -> None:
    """15.96 of 16 layers are not 16, which would be full depth."""
    assert f"fixed depth {text} of" in replace(POINT, depth=depth).name


@given(gains=st.lists(GAINS, min_size=1, max_size=2), costlier=st.booleans())
def test_only_what_is_shown_decides(gains: list[Gain], costlier: bool) -> None:
    point = replace(POINT, source=FULL_DEPTH) if costlier else POINT
    verdict = judged(point, gains).verdict
    assert (verdict in {"beats", "mixed"}) == any(gain.better for gain in gains)
    assert (verdict in {"is worse", "mixed"}) == any(gain.worse for gain in gains)
    turned = judged(point, [Gain(g.metric, g.worse, g.better) for g in gains]).verdict
    swapped = {"beats": "is worse", "is worse": "beats"}
    assert turned == swapped.get(verdict, verdict)
    if not any(gain.better or gain.worse for gain in gains):
        assert verdict == ("does not beat" if costlier else "not distinguishable")


def test_without_pairs_nothing_is_said() -> None:
    assert judged(POINT, []).verdict == "not tested"
    assert judged(replace(POINT, verdict="unknown"), []).verdict == "unknown"


def test_a_verdict_names_the_metrics_that_made_it() -> None:
    gains = [Gain("em", False, False), Gain("agreement", True, False)]
    found = judged(POINT, gains)
    assert (found.verdict, found.told_by) == ("beats", ("agreement",))
