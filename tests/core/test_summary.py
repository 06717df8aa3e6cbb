"""Per-document values and token-pooled totals, against the plain arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.core.summary import Answer, Request, consistency, pool, summarise
from dynamax_lm.core.totals import RunTotals, TaskTotals, ledger
from dynamax_lm.core.trace import AnswerTrace, ExitRecord, FlopsBreakdown, Noise, Reference


def trace(depths: tuple[int, ...], full: tuple[int, ...] | None = None) -> AnswerTrace:
    """Tokens 0, 1, 2, ... at these depths."""
    tokens = tuple(range(len(depths)))
    return AnswerTrace(5, tokens, tokens, depths, (None,) * len(depths), full)


def answer(
    response: object,
    reference: Reference | None = None,
    bill: FlopsBreakdown | None = None,
    *traces: AnswerTrace,
) -> Answer:
    record = ExitRecord("f", traces or (trace((4,), (0,)),), bill or FlopsBreakdown(), reference)
    return Answer(response, record)


def text(*pairs: tuple[str, str | None]) -> Request:
    return Request("generate_until", tuple(answer(*pair) for pair in pairs))


def score(ours: float, full: float, *, unconditional: bool = False) -> Request:
    return Request("loglikelihood", (answer((ours, False), (full, False)),), unconditional)


def greedy(ours: bool, full: bool) -> Request:
    return Request("loglikelihood", (answer((-1.0, ours), (-2.0, full)),))


def test_layers_and_agreement_are_means_over_tokens_not_over_answers() -> None:
    long, short = trace((4, 4, 4), (0, 1, 9)), trace((16,), (0,))
    request = Request("generate_until", (answer("", "", None, long), answer("", "", None, short)))
    summary = summarise([request])
    assert summary.layers_used == 28 / 4
    assert summary.agreement == 3 / 4


def test_noise_is_a_share_of_the_tokens_that_were_measured() -> None:
    quiet, loud = trace((4, 4), (0, 1)), replace(trace((4, 4, 4), (0, 1, 2)), full_depth=(0, 1, 9))
    loud = replace(loud, reference_pass=(0, 5, None))
    request = Request("generate_until", (answer("", "", None, quiet), answer("", "", None, loud)))
    summary = summarise([request])
    assert summary.agreement_noise == 1 / 2
    assert summary.agreement == 4 / 5
    assert pool([[request], [request]]).noise == Noise(4, 2)
    assert summarise([text(("a", "a"))]).agreement_noise is None


def test_savings_come_from_the_summed_bill() -> None:
    bills = (
        FlopsBreakdown(prompt=100, layers=30, full_depth=100),
        FlopsBreakdown(prompt=10, checks=5, full_depth=10),
    )
    summary = summarise([Request("generate_until", tuple(answer("", "", b) for b in bills))])
    assert summary.flops_saved == pytest.approx(1 - 35 / 110)
    assert summary.flops_saved_total == pytest.approx(1 - 145 / 220)


def test_savings_may_be_negative() -> None:
    request = Request(
        "generate_until", (answer("", "", FlopsBreakdown(layers=10, checks=2, full_depth=10)),)
    )
    assert summarise([request]).flops_saved == pytest.approx(-0.2)


def test_without_tokens_there_is_nothing_to_average() -> None:
    empty = Request("generate_until", (answer("", "", None, trace((), ())),))
    assert summarise([empty]).values() == {"consistency": 1.0}


def test_without_text_only_what_its_stop_did_is_told() -> None:
    stop = replace(trace((4, 8), (0, 9)), text_tokens=0)
    record = ExitRecord("f", (stop,), FlopsBreakdown(9, 1, full_depth=2), "", FlopsBreakdown(9))
    summary = summarise([Request("generate_until", (Answer("", record),))])
    assert summary.values() == {
        "consistency": 1.0,
        "layers_used_with_stop": 6.0,
        "flops_saved_with_stop": 0.5,
        "agreement_with_stop": 0.5,
        "stop_share": 1.0,
    }


def test_one_answer_without_reference_leaves_agreement_out() -> None:
    request = Request(
        "generate_until",
        (answer("a", "a"), answer("a", None, None, trace((4, 4)))),
    )
    summary = summarise([request])
    assert summary.agreement is None
    assert summary.consistency is None
    assert summary.layers_used == 4


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([text(("a", "a"))], 1.0),
        ([text(("a", "b"))], 0.0),
        ([text(("a", "a"), ("a", "b"), ("c", "c"), ("", ""))], 0.75),
        ([text(("a", "a")), text(("a", "b"))], 0.0),
        ([greedy(True, True)], 1.0),
        ([greedy(True, False)], 0.0),
        ([score(-1, -5), score(-2, -6)], 1.0),
        ([score(-1, -6), score(-2, -5)], 0.0),
        ([score(-1, -1), score(-1, -1)], 1.0),
        ([score(-1, -5), score(-2, -6), score(0, -9, unconditional=True)], 1.0),
        ([text(("a", "a")), greedy(False, True)], 0.0),
        ([text(("a", "a")), greedy(True, True)], 1.0),
        ([Request("loglikelihood_rolling", (answer(-3.0, -3.0),))], None),
        ([text(("a", None))], None),
        ([], None),
    ],
)
def test_consistency(requests: list[Request], expected: float | None) -> None:
    assert consistency(requests) == expected


depths = st.lists(st.integers(1, 32), max_size=6).map(tuple)
flops = st.integers(0, 10**15)


@st.composite
def documents(draw: st.DrawFn) -> list[Request]:
    def one() -> Answer:
        used = draw(depths)
        full = draw(st.none() | st.tuples(*[st.integers(0, 6)] * len(used)))
        again = draw(st.none() | st.tuples(*[st.none() | st.integers(0, 6)] * len(used)))
        bill = FlopsBreakdown(*(draw(flops) for _ in range(8)))
        made = replace(trace(used, full), reference_pass=again)
        return answer("a", draw(st.sampled_from(["a", "b"])), bill, made)

    return [
        Request("generate_until", tuple(one() for _ in range(draw(st.integers(1, 2)))))
        for _ in range(draw(st.integers(1, 2)))
    ]


@given(st.lists(documents(), max_size=4), st.lists(documents(), max_size=4))
def test_pooling_parts_is_pooling_all(
    left: list[list[Request]], right: list[list[Request]]
) -> None:
    parts, whole = pool(left) + pool(right), pool([*left, *right])
    assert parts.texts.distinct >= whole.texts.distinct, "a text that both have counts twice"
    assert replace(parts, texts=whole.texts) == whole


@given(st.lists(documents(), max_size=3))
def test_totals_survive_json(some: list[list[Request]]) -> None:
    run = RunTotals({"a": pool(some), "b": pool(some[:1])})
    again = RunTotals.from_json(json.loads(json.dumps(run.to_json())))
    assert again == run
    assert again.total == run.tasks["a"] + run.tasks["b"]


@given(documents(), st.data())
def test_values_of_the_text_are_those_of_an_answer_that_ends_with_it(
    requests: list[Request], data: st.DataObject
) -> None:
    """And those with the stop do not depend on where the text ends."""
    longer, shorter = [], []
    for request in requests:
        pairs = []
        for one in request.answers:
            (whole,) = one.record.traces
            cut = replace(whole, text_tokens=data.draw(st.integers(0, len(whole))))
            bill = FlopsBreakdown(*(data.draw(flops) for _ in range(8)))
            kept = replace(one.record, traces=(cut,), text_bill=bill)
            ended = replace(one.record, traces=(cut.text,), bill=bill)
            pairs.append((Answer(one.response, kept), Answer(one.response, ended)))
        ours, theirs = zip(*pairs, strict=True)
        longer.append(Request(request.kind, ours))
        shorter.append(Request(request.kind, theirs))
    found, alone, before = summarise(longer), summarise(shorter), summarise(requests)
    for key in ("layers_used", "flops_saved", "flops_saved_total", "agreement"):
        assert getattr(found, key) == getattr(alone, key)
    for key in ("layers_used_with_stop", "flops_saved_with_stop", "agreement_with_stop"):
        assert getattr(found, key) == getattr(before, key)
    assert found.consistency == before.consistency


@given(st.lists(st.sampled_from(["", " ", "\n", "a", " a", "b", "é"])))
def test_texts_are_counted_by_what_is_left_without_white_space(answers: list[str]) -> None:
    found = pool([[text((one, None))] for one in answers]).texts
    bare = [one.strip() for one in answers]
    assert found == (len(bare), bare.count(""), len(set(bare)))
    assert found.mostly_empty == (bare.count("") > len(bare) / 2)
    assert found.few == (len(set(bare)) < len(bare) / 2)


def test_json_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="schema 99"):
        RunTotals.from_json({"schema": 99})
    with pytest.raises(ValueError, match="count the stop with the answer"):
        RunTotals.from_json({"schema": 1})


def test_a_run_pools_task_by_task() -> None:
    one = pool([[text(("a", "a"))]])
    run = RunTotals({"a": one})
    for task in ("a", "b"):
        run.add(task, one)
    assert run.tasks["a"].documents == 2
    assert run.tasks["b"] == one
    assert run.total.text.tokens == 3


def test_pooled_values_weigh_tokens() -> None:
    totals = pool([[text(("a", "a"))], [Request("x", (answer(0, 0, None, trace((16,) * 3)),))]])
    assert totals.text.layers_used == (4 + 3 * 16) / 4
    assert totals.text.agreement == 1.0
    assert totals.text.depths == {4: 1, 16: 3}
    assert totals.with_stop == totals.text
    assert TaskTotals().text.layers_used is None


def test_shares_of_the_ledger_sum_to_what_was_not_saved() -> None:
    bill = FlopsBreakdown(60, 10, 2, 3, 4, 5, 6, 40)
    itemised = ledger(bill)
    assert sum(itemised["share_of_full_depth"].values()) == pytest.approx(1 - bill.flops_saved)
    assert itemised["prompt_share_of_total"] == 0.6
    assert itemised["flops"]["spent"] == 30
