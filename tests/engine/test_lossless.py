"""Lossless generation gives full depth's text whatever is drafted, and full depth's state."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.trace import DraftRound
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.decoders.recurrent_state import DraftLog
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.draft_costs import DraftCosts
from dynamax_lm.engine.draft_length import AUTO, DraftLength
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.lossless import decode_lossless
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.models.sampling import RowChooser, generation_config
from tests.builders import STACKS, never, prompts, random_model
from tests.decoders.tiny_families import tiny_model
from tests.heads.builders import CLASSIFIERS, heads_of

KINDS = ["mistral", "llama", "mamba2"]
MEASURES = ["top_prob", "margin", "entropy", "top_prob|rank:2", "margin|rank:2+shortlist:5"]
LAYERS = 4

pytestmark = pytest.mark.usefixtures("no_gradients")


def stops_on(divisor: int) -> Any:
    return lambda answer: answer[-1] % divisor == 0


def draw_requests(data: st.DataObject, rows: list[tuple[int, ...]]) -> list[GenerateRequest]:
    stop = data.draw(st.sampled_from([never, stops_on(5), stops_on(11)]))
    return [GenerateRequest(row, data.draw(st.integers(1, 12)), stop) for row in rows]


def check_rounds(answer: GeneratedAnswer) -> None:
    """Rounds account for every token: what is accepted, and one of full depth's own."""
    rounds, trace = answer.trace.rounds, answer.trace
    assert rounds
    for one, after in zip(rounds, [*(r.start for r in rounds[1:]), len(trace)], strict=True):
        assert 0 <= one.accepted <= len(one.drafted) == len(one.depths)
        assert one.inputs in {len(one.drafted), len(one.drafted) + 1}
        assert (
            trace.tokens[one.start : one.start + one.accepted][: after - one.start]
            == (one.drafted[: one.accepted][: after - one.start])
        )
        assert one.tokens == after - one.start == min(one.accepted + 1, one.inputs)
        if one.accepted < len(one.drafted) and one.start + one.accepted < after:
            assert trace.tokens[one.start + one.accepted] != one.drafted[one.accepted]


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    rows=prompts(),
    threshold=st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 1.0]),
    measure=st.sampled_from(MEASURES),
    exit_layer=st.integers(1, LAYERS - 1),
    draft_length=st.sampled_from([AUTO, 1, 2, 5, 40]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_text_is_full_depths(
    kind: str,
    rows: list[tuple[int, ...]],
    threshold: float,
    measure: str,
    exit_layer: int,
    draft_length: int,
    seed: int,
    data: st.DataObject,
) -> None:
    stack = STACKS[kind](random_model(kind, LAYERS, seed=seed))
    asked = draw_requests(data, rows)
    policy = ExitPolicy((exit_layer,), measure, threshold)
    ours = generate(stack, asked, policy=policy, reference=True, draft_length=draft_length)
    full = generate(stack, asked)
    for answer, theirs in zip(ours, full, strict=True):
        assert answer.trace.tokens == theirs.trace.tokens
        assert answer.reference == answer.trace.full_depth == answer.trace.tokens
        assert set(answer.trace.layers_used) == {LAYERS}
        check_rounds(answer)


@pytest.mark.parametrize("kind", KINDS)
def test_drafts_are_accepted_and_rejected_here(kind: str) -> None:
    """Else the law above would prove little."""
    accepted = rejected = 0
    for seed in range(4):
        stack = STACKS[kind](random_model(kind, LAYERS, seed=seed))
        asked = [GenerateRequest((1, 2, 3), 24, never), GenerateRequest((7,), 24, never)]
        policy = ExitPolicy((3,), "top_prob", 0.0)
        for answer in generate(stack, asked, policy=policy, draft_length=4):
            accepted += sum(one.accepted for one in answer.trace.rounds or ())
            rejected += sum(len(one.drafted) - one.accepted for one in answer.trace.rounds or ())
    assert accepted > 10
    assert rejected > 10


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_trained_heads_draft(kind: str, classifier: str) -> None:
    model = random_model(kind, LAYERS, seed=3)
    stack = STACKS[kind](model)
    heads = heads_of(model, (2,), 1, classifier=classifier, translator="low_rank")
    asked = [GenerateRequest(row, 9, never) for row in ((1, 5, 9, 2), (2,), (8, 8, 3))]
    for threshold in (0.0, 0.5):
        policy = ExitPolicy((2,), "head", threshold)
        ours = generate(stack, asked, policy=policy, heads=heads, draft_length=AUTO)
        for answer, full in zip(ours, generate(stack, asked), strict=True):
            assert answer.trace.tokens == full.trace.tokens


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


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_rejected_tokens_leave_the_heads_state(kind: str) -> None:
    """Confidences are those of the emitted text alone, whatever was drafted in between."""
    rejected = compared = 0
    for seed in range(6):
        model = random_model(kind, 4, seed=seed)
        stack = STACKS[kind](model)
        heads = heads_of(model, (2,), seed, classifier="mamba")
        policy = ExitPolicy((2,), "head", 0.05)
        asked = [GenerateRequest((1 + seed, 2, 3), 12, never), GenerateRequest((3, 1), 12, never)]
        ours = generate(stack, asked, policy=policy, heads=heads, draft_length=32)
        pairs = zip(asked, ours, strict=True)
        rescored = [ScoreRequest(one.prompt, answer.trace.tokens) for one, answer in pairs]
        never_exits = ExitPolicy((2,), "head", 1.0)
        theirs = score(stack, rescored, policy=never_exits, heads=heads)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.trace.rounds is not None
            rejected += sum(len(r.drafted) - r.accepted for r in mine.trace.rounds)
            for a, b in zip(mine.trace.confidence, other.trace.confidence, strict=True):
                if a is not None and b is not None:
                    assert a == pytest.approx(b, abs=1e-4)
                    compared += 1
    assert rejected > 20
    assert compared > 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exit_layer", [1, 3])
def test_a_withdrawn_draft_leaves_full_depths_state(kind: str, exit_layer: int) -> None:
    """After rejections, every layer has seen the accepted tokens and goes on as full depth does."""
    stack = STACKS[kind](random_model(kind, LAYERS, seed=5))
    asked = [GenerateRequest((1, 2, 3, 4), 14, never), GenerateRequest((5, 6), 14, never)]
    prompts_ = [one.prompt for one in asked]
    ours, theirs = prefill(stack, prompts_), prefill(stack, prompts_)
    first, second = [Progress(), Progress()], [Progress(), Progress()]
    policy = ExitPolicy((exit_layer,), "top_prob", 0.0)
    decode_lossless(stack, ours, asked, first, policy, None, 6)
    decode(stack, theirs, asked, second, FULL_DEPTH, "propagate", None)
    assert any(r.accepted < len(r.drafted) for row in first for r in row.rounds)
    longer = [GenerateRequest(one.prompt, 20, never) for one in asked]
    behind = [len(row.tokens) for row in second]
    assert [row.tokens for row in first] == [row.tokens for row in second]
    for layer in range(LAYERS):
        given_ = [len(one.prompt) - 1 + count for one, count in zip(asked, behind, strict=True)]
        assert theirs.seen(layer) == given_  # type: ignore[attr-defined]
        slack = [a - b for a, b in zip(ours.seen(layer), given_, strict=True)]  # type: ignore[attr-defined]
        most = max(row.rounds[-1].inputs for row in first)
        assert all(0 <= one <= most for one in slack), "only what follows the end may be left over"
    if all(a == b for a, b in zip(ours.seen(0), theirs.seen(0), strict=True)):  # type: ignore[attr-defined]
        for state, rows in ((ours, first), (theirs, second)):
            decode(stack, state, longer, rows, FULL_DEPTH, "propagate", None)
        assert [row.tokens for row in first] == [row.tokens for row in second]


def test_drawn_tokens_are_full_depths_draws() -> None:
    """The same random numbers at the exit and at full depth: the same text as full depth draws."""

    def chooser(seed: int) -> Any:
        def choose(answer: Any, logits: torch.Tensor) -> int:
            rng = random.Random(f"{seed} {list(answer)}")
            weights = logits[0].double().softmax(-1).tolist()
            return rng.choices(range(len(weights)), weights)[0]

        return choose

    for kind in ("mistral", "mamba2"):
        stack = STACKS[kind](random_model(kind, LAYERS, seed=2))
        asked = [GenerateRequest((1, 2), 10, never, chooser=chooser(seed)) for seed in range(6)]
        policy = ExitPolicy((3,), "top_prob", 0.0)
        ours = generate(stack, asked, policy=policy, draft_length=4)
        full = generate(stack, asked)
        assert [one.trace.tokens for one in ours] == [one.trace.tokens for one in full]
        assert len({one.trace.tokens for one in ours}) > 3
        assert sum(r.accepted for one in ours for r in one.trace.rounds or ()) > 0


def test_successive_draws_have_full_depths_joint_distribution() -> None:
    """Three tokens after one prompt, over many seeds, against the model's exact probabilities."""
    model = random_model("mistral", 2, seed=24, vocab_size=3)
    prompt, draws, temperature = (1, 2), 600, 1.5
    texts = list(product(range(3), repeat=3))
    logits = model(torch.tensor([prompt + text for text in texts])).logits.double()
    steps = (logits / temperature).log_softmax(-1)
    of_each = steps[:, 1:-1].gather(-1, torch.tensor(texts)[:, :, None])
    expected = draws * of_each.sum((1, 2)).exp()
    assert expected.min() > 5, "else chi-square does not hold"

    options = {"do_sample": True, "temperature": temperature, "top_k": 0}
    config = generation_config(model, options)
    choosers = [RowChooser(model, config, prompt, seed) for seed in range(draws)]
    asked = [GenerateRequest(prompt, 3, never, one) for one in choosers]
    policy = ExitPolicy((1,), "top_prob", 0.0)
    answers = generate(STACKS["mistral"](model), asked, policy=policy, draft_length=2)
    rounds = [one for answer in answers for one in answer.trace.rounds or ()]
    accepted = sum(one.accepted for one in rounds)
    assert min(accepted, sum(len(one.drafted) for one in rounds) - accepted) > draws / 4
    observed = Counter(answer.trace.tokens for answer in answers)
    assert chisquare([observed[text] for text in texts], expected.numpy()).pvalue > 1e-6


def test_an_adapting_draft_grows_and_shrinks() -> None:
    length = DraftLength()
    first = length.now
    length.verified(first, first)
    assert length.now == first + 2
    length.verified(length.now, 1)
    assert length.now == first + 1
    for _ in range(50):
        length.verified(length.now, 0)
    assert length.now == 1
    fixed = DraftLength(3)
    fixed.verified(3, 0)
    assert fixed.now == 3


def test_drafts_that_do_not_pay_pause_and_are_tried_again() -> None:
    """A pause has no drafts, ends, and is longer each time; a fixed length is the user's."""
    costs = DraftCosts(0.25, 0.05, 0.75)
    length, fixed, lengths = DraftLength(AUTO, costs), DraftLength(3, costs), []
    for _ in range(200):
        drafted = length.now
        lengths.append(drafted)
        length.verified(drafted, 0, inputs=drafted + 1, checks=drafted)
        fixed.verified(3, 0, inputs=4, checks=3)
        assert fixed.now == 3
    pauses = [len(list(some)) for drafts, some in groupby(lengths, bool) if not drafts]
    assert len(pauses) >= 3
    assert pauses[1] == 2 * pauses[0]
    paying = DraftLength(AUTO, costs)
    for _ in range(50):
        paying.verified(paying.now, paying.now, inputs=paying.now + 1, checks=paying.now)
        assert paying.now > 0


def test_several_exits_are_refused() -> None:
    stack = STACKS["mistral"](random_model("mistral"))
    with pytest.raises(ValueError, match="one exit drafts"):
        generate(
            stack,
            [GenerateRequest((1,), 2, never)],
            policy=ExitPolicy((1, 2), "top_prob", 0.5),
            draft_length=1,
        )


COSTS = AttentionCosts(
    n_layers=8, width=16, feedforward=32, query_heads=4, kv_heads=2, head_dim=4, vocabulary=50
)


def test_a_perfect_draft_costs_full_depth_and_its_checks() -> None:
    ledger = Ledger(COSTS, exit_layers=(3,), confidence="top_prob", skipped_state="recompute")
    full = Ledger(COSTS).answer(10, (8,) * 4)
    one = DraftRound(0, 4, (1, 2, 3), (3, 3, 3), 3, checked=False)
    bill = ledger.lossless(10, [one], 4)
    check = ledger.answer(10, (3,)).checks
    assert bill.full_depth == full.full_depth
    assert bill.spent == full.spent + 3 * check
    assert bill.verification == sum(
        COSTS.layers(position, 3, 8) + full.projection // 4 for position in (10, 11, 12)
    )


def test_rejected_tokens_are_paid_for() -> None:
    ledger = Ledger(COSTS, exit_layers=(3,), confidence="top_prob", skipped_state="recompute")
    accepted = ledger.lossless(0, [DraftRound(0, 3, (1, 2), (3, 3), 2)], 3)
    rejected = ledger.lossless(
        0, [DraftRound(0, 3, (1, 2), (3, 3), 0), DraftRound(1, 2, (4,), (3,), 1)], 3
    )
    assert rejected.full_depth == accepted.full_depth
    assert rejected.spent > accepted.spent
    assert accepted.flops_saved > rejected.flops_saved


def test_a_cheap_look_drafts_without_the_exact_projection() -> None:
    exact, cheap = (
        Ledger(COSTS, exit_layers=(3,), confidence=name, skipped_state="recompute")
        for name in ("top_prob", "top_prob|rank:2")
    )
    one = DraftRound(0, 3, (1, 2), (3, 3), 2)
    ours, theirs = cheap.lossless(0, [one], 3), exact.lossless(0, [one], 3)
    assert ours.projection == theirs.projection
    assert ours.checks < theirs.checks


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_thousands_of_prompts(kind: str) -> None:
    rng = random.Random(11)
    done = 0
    while done < 2500:
        layers = rng.choice([2, 4, 6])
        stack = STACKS[kind](random_model(kind, layers, seed=rng.randrange(10**6)))
        asked = [
            GenerateRequest(
                tuple(rng.randrange(61) for _ in range(rng.randint(1, 12))),
                rng.randint(1, 24),
                rng.choice([never, stops_on(7)]),
            )
            for _ in range(rng.randint(1, 8))
        ]
        policy = ExitPolicy(
            (rng.randint(1, layers - 1),), rng.choice(MEASURES), rng.choice([0.0, 0.1, 0.3, 0.6])
        )
        ours = generate(stack, asked, policy=policy, draft_length=rng.choice([AUTO, 1, 3, 8]))
        full = generate(stack, asked)
        assert [one.trace.tokens for one in ours] == [one.trace.tokens for one in full]
        done += len(asked)
