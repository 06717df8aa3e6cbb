"""The laws of a decoder, over every family of the table: a further row is tested by these."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.costs import norm_flops
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.check import check_layers
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba import MambaCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.families import text_decoder
from dynamax_lm.decoders.family_costs import decoder_costs
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import catch_up
from tests.decoders.tiny_families import (
    DECODERS,
    LAYERS,
    VOCAB,
    WINDOW,
    base_of,
    cut,
    tiny_config,
    tiny_model,
)
from tests.engine.test_prompt_exit import run_on
from tests.laws import Tally, ask
from tests.stacks import Keep, remembered
from tests.stacks import step as logits_after

pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.parametrize("family", DECODERS),
]

ROWS = [
    tuple((7 * row + 11 * place) % VOCAB for place in range(length))
    for row, length in enumerate((13, 4, 1, 9, 6, 11, 2))
]
"""Prompts of different lengths, some longer than the windows."""

assert max(map(len, ROWS)) > 2 * WINDOW


def expected(model: Any, row: tuple[int, ...]) -> Tensor:
    """(T, V) logits of transformers' own forward."""
    logits: Tensor = model(torch.tensor([row]), use_cache=False).logits[0]
    return logits.float()


def policies(stack: FamilyStack) -> list[str]:
    """Every policy, and where layers are of two kinds, one that is another for each."""
    kinds = {part.KEY: part for part in stack.costs.parts}
    mixed = "+".join(f"{key}:{list(part.SKIPPED)[-1]}" for key, part in kinds.items())
    first_is_attention = any(part.KEY == "attention" for part in stack.layers[0].kind.costs.parts)
    own = [mixed] if len(kinds) > 1 and first_is_attention else []
    if len(kinds) > 1 and not own:
        own = [mixed.replace("copy_kv", "propagate")]
    return [*sorted(stack.skipped_states), *own]


@pytest.mark.parametrize("batch", [1, 7])
def test_full_depth_is_transformers_forward(family: str, batch: int) -> None:
    same_as_transformers(tiny_model(family), ROWS[:batch])


def same_as_transformers(model: Any, rows: list[tuple[int, ...]]) -> None:
    """The prompt's last token in a padded batch, then two tokens at once, then one.

    Some random models magnify rounding, by how much depends on the processor: ours may err as much
    as the tolerance and four times transformers' own largest error, both against float64.
    """
    stack, batch = FamilyStack(model), len(rows)
    exact, found = copy.deepcopy(model).double(), []
    if exact.config._experts_implementation is not None:
        exact.set_experts_implementation("eager")  # the others have no float64
    state, whole = prefill(stack, rows), [(*row, 5, 9, 3, 8) for row in rows]
    for step, new in ((1, 1), (2, 2), (4, 1)):  # the last prompt token is not in the state yet
        first = [len(row) - 2 + step for row in rows]
        token_batch = TokenBatch.of(
            [row[start : start + new] for row, start in zip(whole, first, strict=True)],
            range(batch),
            stack.device,
        )
        kept = Keep(batch * new)
        run_token_batch(stack, state, token_batch, kept)
        for row, start, ours in zip(whole, first, kept.logits.view(batch, new, -1), strict=True):
            theirs, wanted = (expected(one, row[: start + new])[start:] for one in (model, exact))
            found.append((ours, theirs, wanted))
    noise = max(float((theirs - wanted).abs().max()) for _, theirs, wanted in found)
    assert noise < 1e-4, "more than rounding"
    for ours, _, wanted in found:
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=2e-5 + 4 * noise)


def test_prompts_that_exit_leave_the_state_of_their_hidden_states_above(family: str) -> None:
    """In layers of every kind; scoring then repeats generation."""
    stack, depth = FamilyStack(tiny_model(family, seed=2)), LAYERS // 2
    expected, ours = run_on(stack, ROWS, depth), prefill(stack, ROWS, PromptExit(depth))
    found, wanted = (logits_after(stack, one, len(ROWS)) for one in (ours, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    policy = ExitPolicy((1, LAYERS - 1), "top_prob", 0.2, prompt_exit=depth)
    answers = generate(stack, ask(ROWS, 3), policy=policy, reference=True)
    asked = [ScoreRequest(row, one.trace.tokens) for row, one in zip(ROWS, answers, strict=True)]
    tally = Tally(policy.threshold)
    for one, again in zip(answers, score(stack, asked, policy=policy, reference=True), strict=True):
        tally.same(one.trace, again.trace)
    tally.check()


def test_leaving_at_a_layer_is_a_shallower_model(family: str) -> None:
    """For generation and scoring, under every policy for the layers above."""
    model = tiny_model(family, seed=1)
    stack, rows = FamilyStack(model), ROWS[:3]
    for layers in (1, LAYERS - 1):
        policy = ExitPolicy((layers,), "top_prob", 0.0)
        with cut(model, layers):
            texts = [by_hand(model, row, 3) for row in rows]
            logits = [expected(model, (*row, 5, 9)) for row in rows]
        for skipped in policies(stack):
            answers = generate(stack, ask(rows, 3), policy=policy, skipped_state=skipped)
            assert [answer.trace.tokens for answer in answers] == texts
            asked = [ScoreRequest(row, (5, 9)) for row in rows]
            scored = score(stack, asked, policy=policy, skipped_state=skipped)
            for row, one, found in zip(rows, scored, logits, strict=True):
                likely = found.log_softmax(-1)
                places = ((len(row) - 1, 5), (len(row), 9))
                theirs = [likely[place, token].item() for place, token in places]
                assert one.log_probabilities == pytest.approx(theirs, abs=1e-3)


def by_hand(model: Any, row: tuple[int, ...], new: int) -> tuple[int, ...]:
    answer: list[int] = []
    for _ in range(new):
        answer.append(int(expected(model, (*row, *answer))[-1].argmax()))
    return tuple(answer)


def test_scoring_and_neighbours_change_nothing(family: str) -> None:
    """A row alone, in a batch, and scored in one pass takes the same exits, with mixed depths."""
    model = tiny_model(family, seed=2)
    stack, threshold = FamilyStack(model), median_confidence(model, 2)
    depths: set[int] = set()
    for skipped in policies(stack):
        policy = ExitPolicy((1, 2, 3), "top_prob", threshold)
        options: Any = {"policy": policy, "skipped_state": skipped}
        together = generate(stack, ask(ROWS[:2], 5), **options)
        asked = [
            ScoreRequest(row, answer.trace.tokens)
            for row, answer in zip(ROWS, together, strict=False)
        ]
        tally = Tally(policy.threshold)
        for row, answer, again in zip(ROWS, together, score(stack, asked, **options), strict=False):
            [alone] = generate(stack, ask([row], 5), **options)
            tally.same(answer.trace, alone.trace)
            tally.same(answer.trace, again.trace)
            depths.update(answer.trace.layers_used)
        tally.check()
    assert len(depths) > 1, "the exits must be mixed for this to prove anything"


def test_propagate_is_each_layer_run_on_the_frozen_states(family: str) -> None:
    """A skipped layer's state is what that layer alone leaves when it runs on the frozen states."""
    stack, rows, depth = FamilyStack(tiny_model(family, seed=5)), ROWS[:3], 1
    state = prefill(stack, rows)
    before = stack.take(state, range(3))
    token_batch = TokenBatch.of([(3, 4), (8,), (5, 6)], range(3), stack.device)
    run = stack.begin(state, token_batch, "propagate")
    hidden = stack.layer(0, stack.embed(run), run)
    run.freeze(torch.ones(hidden.shape[0], dtype=torch.bool), hidden)
    for index in range(depth, LAYERS):
        stack.layer(index, hidden[:0], run)
    stack.end(state, run)
    whole = stack.begin(before, token_batch, "propagate")
    for index in range(depth, LAYERS):
        stack.layer(index, hidden, whole)
    stack.end(before, whole)
    state.layers, before.layers = state.layers[depth:], before.layers[depth:]
    for ours, alone in zip(remembered(state), remembered(before), strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


def median_confidence(model: Any, layers: int) -> float:
    """The top probability after ``layers``, with half of the tokens of the prompts above it."""
    with cut(model, layers):
        logits = torch.cat([expected(model, row) for row in ROWS])
    return float(logits.softmax(-1).amax(-1).median())


def test_recompute_and_lossless_end_in_full_depths_state(family: str) -> None:
    model, rows = tiny_model(family, seed=3), ROWS[:3]
    stack, threshold = FamilyStack(model), median_confidence(model, 2)
    exact, state = prefill(stack, rows), prefill(stack, rows)
    for tokens in ([(3, 4)] * 3, [(8,)] * 3):
        token_batch = TokenBatch.of(tokens, range(3), stack.device)
        run_token_batch(stack, exact, token_batch, None)
        policy = ExitPolicy((2,), "top_prob", threshold)
        kept = Keep(token_batch.ids.numel())
        run_token_batch(stack, state, token_batch, kept, policy=policy, skipped_state="recompute")
    catch_up(stack, state, range(3))
    for ours, full in zip(remembered(state), remembered(exact), strict=True):
        torch.testing.assert_close(ours, full, rtol=1e-4, atol=1e-4)
    drafted = generate(stack, ask(rows, 8), policy=policy, draft_length=3)
    plain = generate(stack, ask(rows, 8))
    assert [one.trace.tokens for one in drafted] == [one.trace.tokens for one in plain]


def test_a_draft_is_known_once_it_begins(family: str) -> None:
    """Recorded steps write no drafts: a layer that keeps one says so, inside another layer too."""
    stack = FamilyStack(tiny_model(family))
    state = prefill(stack, ROWS[:2])
    recurrent = any(isinstance(part, Mamba2Costs | MambaCosts) for part in stack.costs.parts)
    assert not state.drafts()
    stack.begin_draft(state, [1])
    assert state.drafts() == recurrent


def test_the_ledger_is_the_flop_counter(family: str) -> None:
    billed_as_counted(family)


def billed_as_counted(family: str, **options: Any) -> None:
    """One token without a past, in transformers' own forward; and each layer as its adapter says.

    The linear layers and experts exactly, and attention's products. Of the convolution the counter
    sees outputs that are thrown away, and of the recurrence what a fallback makes of it:
    ``tests/decoders/test_layer_costs.py`` counts these operation by operation.
    """
    options |= {"attn_implementation": "eager"}
    costs = decoder_costs(*text_decoder(tiny_config(family, **options)))
    model = tiny_model(family, **options)
    stack = FamilyStack(model)
    assert costs == stack.costs
    model.config._experts_implementation = "eager"  # the counter knows no grouped product
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.tensor([[3]]), use_cache=False)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(one, 0) for one in (torch.ops.aten.mm, torch.ops.aten.addmm))
    parts = [part for layer in stack.layers for part in layer.kind.costs.parts]
    attention = sum(part.context_per_key for part in parts if isinstance(part, AttentionCosts))
    recurrent = [part for part in parts if isinstance(part, (Mamba2Costs, MambaCosts))]
    recurrence = sum(one.convolution + one.advance + one.read_out for one in recurrent)
    full = Ledger(costs).answer(0, [LAYERS]).full_depth - norm_flops(costs)
    assert linear == full - attention - recurrence
    if not recurrent:
        assert counts[torch.ops.aten.bmm] == attention
    assert costs.layers(20, 0, LAYERS) == sum(layer.kind.costs.layer(20) for layer in stack.layers)
    assert costs.prompt(9) == sum(costs.layers(place, 0, LAYERS) for place in range(9))


def test_a_block_unlike_its_description_is_refused(family: str) -> None:
    """The check at load passes transformers' own layers, and none that computes something else."""
    model = tiny_model(family, seed=4)
    stack = FamilyStack(model)
    check_layers(model, stack)
    base = base_of(model)
    assert len(base.layers) == base.config.num_hidden_layers == LAYERS
    first: Any = base.layers[0]
    original = type(first).forward

    def other(self: Any, hidden: Any, *args: Any, **options: Any) -> Any:
        found = original(self, hidden, *args, **options)
        first = found[0] if isinstance(found, tuple) else found
        more = first + hidden.flip(-1) / 2
        return (more, *found[1:]) if isinstance(found, tuple) else more

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(first), "forward", other)
        with pytest.raises(
            SettingError, match=f"model_type '{model.config.model_type}': the first"
        ):
            check_layers(model, stack)


def test_the_check_at_load_passes_16_bit_weights(family: str) -> None:
    """Published weights are in bfloat16, in which some families return float32 logits."""
    model = tiny_model(family, seed=4).to(torch.bfloat16)
    stack = FamilyStack(model)
    check_layers(model, stack)
    ids = torch.tensor([[3, 4, 5]])
    state = prefill(stack, [(3, 4, 5)])
    token_batch = TokenBatch.of([[5]], [0], stack.device)
    run = stack.begin(state, token_batch, "propagate")
    hidden = stack.embed(run)
    for index in range(stack.n_layers):
        hidden = stack.layer(index, hidden, run)
    with torch.no_grad():
        assert stack.unembed(hidden).dtype == model(input_ids=ids).logits.dtype
