"""The depth of equal cost is the ledger's, with prompts, translators and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from static_groups import ONE, baseline_of, group_of, static_plan
from synthetic import COSTS, Plan, write_run

from dynamax_lm.common.tracefile import read_trace
from dynamax_lm.core.costs import norm_flops, unembed_flops
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.skipped_states import SkippedFacts
from dynamax_lm.core.totals import TaskTotals
from dynamax_lm.report.checks.recompute import documents_again, totals_again
from dynamax_lm.report.cost_bounds import cost_bounds
from dynamax_lm.report.depth_bills import ACCOUNTS, Account, bill_of
from dynamax_lm.report.rows import Row
from dynamax_lm.report.static_baseline import static_baselines


def equal_cost_depth(row: Row, account: Account = "answer") -> float | None:
    """The depth at which always leaving costs what the row did; above L it costs more than L."""
    bill = bill_of(row, account)
    return None if bill is None else max(1.0, bill.depth(bill.spent))


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
    depth = equal_cost_depth(group_of(folder)[0])
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
    bounds = cost_bounds(group_of(folder)[0])
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


def test_with_prompts_the_baseline_is_deeper(tmp_path: Path) -> None:
    """It spares the layers that prompts pay above it, and a dynamic setting does not."""
    made = write_run(tmp_path, Plan(tasks=ONE, exits=(2,)))
    (row,) = group_of(tmp_path)
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
        made = write_run(tmp_path / "b", static_plan(1, heads="h", heads_fingerprint="ab"))
        data = made.data()
        extras = [{"classifier": 10**6, "translator": translator}]
        data["config"]["early_exit"]["costs"]["exit_extras"] = extras
        made.change(data)
        group = group_of(tmp_path)
        row = next(row for row in group if row.kind == "dynamic")
        baseline = baseline_of(row, group, account)
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
    group = group_of(tmp_path)
    assert static_baselines(group[0], group) == ()
