"""Rows of a lossless batch: neighbours change nothing, and a finished one is replaced."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.decoders.recurrent_state import DraftLog
from dynamax_lm.engine.draft_length import AUTO
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import STACKS, never, prompts, random_model
from tests.decoders.tiny_families import tiny_model
from tests.engine.drafts import KINDS, LAYERS, check_rounds, draw_requests
from tests.heads.builders import heads_of

pytestmark = pytest.mark.usefixtures("no_gradients")


@settings(max_examples=15)
@given(st.sampled_from(KINDS), prompts(), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 99))
def test_neighbours_change_neither_drafts_nor_rounds(
    kind: str, rows: list[tuple[int, ...]], threshold: float, seed: int
) -> None:
    stack = STACKS[kind](random_model(kind, LAYERS, seed=seed))
    policy = ExitPolicy((2,), "top_prob", threshold)
    asked = [GenerateRequest(row, 8, never) for row in rows]
    together = generate(stack, asked, policy=policy, draft_length=AUTO)
    alone = [generate(stack, [one], policy=policy, draft_length=AUTO)[0] for one in asked]
    same = [a.trace.rounds == b.trace.rounds for a, b in zip(together, alone, strict=True)]
    assert [one.trace.tokens for one in together] == [one.trace.tokens for one in alone]
    assert sum(same) >= len(same) - 1, "a confidence within rounding of the threshold is rare"


@settings(max_examples=30)
@given(
    kind=st.sampled_from(KINDS),
    rows=prompts(min_rows=3, max_rows=7),
    threshold=st.sampled_from([0.0, 0.1, 0.4]),
    classifier=st.sampled_from([None, "mamba", "linear"]),
    draft_length=st.sampled_from([AUTO, 1, 5]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_a_row_that_finishes_is_replaced_and_nothing_else_changes(
    kind: str,
    rows: list[tuple[int, ...]],
    threshold: float,
    classifier: str | None,
    draft_length: int,
    seed: int,
    data: st.DataObject,
) -> None:
    """Drafts in progress and the heads' state of the other rows are left as they are."""
    model = random_model(kind, LAYERS, seed=seed)
    stack = STACKS[kind](model)
    heads = classifier and heads_of(model, (2,), 1, classifier=classifier)
    policy = ExitPolicy((2,), "head" if heads else "top_prob", threshold)
    asked = draw_requests(data, rows)
    flight = Flight(data.draw(st.integers(1, len(rows) - 1)))
    options = {"policy": policy, "heads": heads or None, "draft_length": draft_length}
    ours = generate(stack, asked, reference=True, flight=flight, **options)
    alone = [generate(stack, [one], **options)[0] for one in asked]
    same = 0
    for mine, other, full in zip(ours, alone, generate(stack, asked), strict=True):
        assert mine.trace.tokens == other.trace.tokens == full.trace.tokens
        assert mine.reference == mine.trace.full_depth == mine.trace.tokens
        check_rounds(mine)
        same += mine.trace.rounds == other.trace.rounds
    assert same >= len(rows) - 1, "a confidence within rounding of the threshold is rare"
    assert flight.used == flight.batch_size


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_short_answer_does_not_leave_its_place_empty(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = STACKS[kind](random_model(kind, LAYERS, seed=4))
    lengths = (2, 24, 2, 24)
    asked = [GenerateRequest((1, 2, 3 + n), most, never) for n, most in enumerate(lengths)]
    options = {"policy": ExitPolicy((2,), "top_prob", 1.0), "draft_length": 1}
    passes: list[int] = []
    begin = stack.begin

    def counted(state: Any, token_batch: Any, *more: Any, **named: Any) -> Any:
        passes.append(len(token_batch.rows))
        return begin(state, token_batch, *more, **named)

    monkeypatch.setattr(stack, "begin", counted)
    counts = []
    for groups, size in ([asked[:2], asked[2:]], 2), ([asked], 2):
        passes.clear()
        for some in groups:
            generate(stack, some, flight=Flight(size), **options)
        counts.append(len(passes))
    lockstep, continuous = counts
    assert lockstep >= 2 * 2 * 24, "two passes a token, and each batch as long as its longest"
    assert continuous <= lockstep - 30, "the third and fourth answers begin with the third token"


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_h1"])
def test_a_finished_row_keeps_no_record_of_the_others_tokens(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes are recorded for drafts in progress, however long the other rows' answers become."""
    stack = FamilyStack(tiny_model(kind))
    asked = [GenerateRequest((1, 2, 3 + n), most, never) for n, most in enumerate((3, 40))]
    kept: list[int] = []
    add = DraftLog.add

    def counted(log: DraftLog, *more: Any) -> None:
        add(log, *more)
        kept.append(len(log.passes))

    monkeypatch.setattr(DraftLog, "add", counted)
    generate(stack, asked, policy=ExitPolicy((2,), "top_prob", 0.0), draft_length=4)
    assert len(kept) > 40, "else nothing was recorded"
    assert max(kept) <= 4 + 1, "a draft of four tokens, and the pass that verifies it"
