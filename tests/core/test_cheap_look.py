"""Cheap looks at the vocabulary: where they equal the exact projection, and what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamax_lm.core.confidence import Measure
from dynamax_lm.core.exit_view import ExitView
from dynamax_lm.core.looks import FULL, Look, looking, read_look, split_look
from dynamax_lm.core.measures import BUILT_IN, MeasureFacts, facts_of, register
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.calibration import second_moment
from dynamax_lm.engine.exit_probe import ConfidenceGrid, HiddenStates, probe_exits
from dynamax_lm.engine.generate import generate
from tests.builders import STACKS, VOCAB, Shape, prompts, random_model, shapes, uneven_requests
from tests.heads.builders import heads_of
from tests.laws import Tally, ask

pytestmark = pytest.mark.usefixtures("no_gradients")

MEASURES = ["top_prob", "margin", "entropy", "patience"]
looks = st.one_of(
    st.builds(Look, rank=st.integers(0, 999), shortlist=st.integers(0, 999)),
    st.builds(Look, rank=st.integers(1, 999), refine=st.integers(1, 999)),
)


def equal_looks(width: int) -> list[str]:
    """Looks that leave nothing out."""
    lists = [f"shortlist:{VOCAB}", f"rank:{width}+shortlist:{VOCAB}", f"rank:1+refine:{VOCAB}"]
    return [f"rank:{width}", *lists]


@settings(max_examples=12)
@given(shape=shapes(), rows=prompts(max_rows=3), data=st.data())
def test_a_look_that_leaves_nothing_out_decides_as_the_exact_projection(
    shape: Shape, rows: list[tuple[int, ...]], data: st.DataObject
) -> None:
    model = shape.model()
    stack = STACKS[shape.kind](model)
    exits = tuple(range(1, shape.layers))
    measure = data.draw(st.sampled_from(MEASURES[: 4 if exits[1:] else 3]))
    look = data.draw(st.sampled_from(equal_looks(model.config.hidden_size)))
    threshold = data.draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    exact, cheap = (
        generate(stack, ask(rows), policy=ExitPolicy(exits, name, threshold))
        for name in (measure, looking(measure, look))
    )
    tally = Tally(threshold)
    for ours, theirs in zip(cheap, exact, strict=True):
        tally.same(ours.trace, theirs.trace)
        if ours.trace.layers_used == theirs.trace.layers_used:
            assert ours.trace.confidence == pytest.approx(theirs.trace.confidence, abs=1e-4)
        if threshold == 1.0:
            assert set(ours.trace.layers_used) == {shape.layers}
    tally.check()


# --- independent definitions ---------------------------------------------------------------------


def probed(stack: Any, names: list[str], heads: Any = None) -> tuple[list[Tensor], list[Tensor]]:
    """(N, E) confidences by each measure, and (N, D) hidden states at each exit."""
    ids, exits = list(range(3, 20)), (1, 2, 3)
    grids = [ConfidenceGrid(name, len(ids), len(exits)) for name in names]
    states = HiddenStates(torch.arange(len(ids)), len(ids), len(exits))
    token_batch = TokenBatch.of([ids], [0], stack.device)
    probe_exits(stack, stack.new_state(1), token_batch, exits, [*grids, states], heads=heads)
    return [grid.confidence for grid in grids], states.hidden[:-1]


def by_hand(rows: Tensor) -> list[Tensor]:
    """Top probability, margin and entropy of logits with places of minus infinity."""
    probabilities = rows.double().softmax(-1)
    best = probabilities.sort(-1, descending=True).values
    logs = torch.where(probabilities > 0, probabilities.log(), 0.0)
    entropy = -(probabilities * logs).sum(-1)
    return [best[:, 0], best[:, 0] - best[:, 1], 1 - entropy / np.log(VOCAB)]


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("look", ["rank:5", "shortlist:7", "rank:5+shortlist:7", "rank:5+refine:7"])
def test_a_look_is_what_it_says(kind: str, look: str, translated: bool) -> None:
    """Factors by a singular value decomposition, lists and softmax by hand, in double precision."""
    model = random_model(kind, seed=5, tie_word_embeddings=kind == "mamba2")
    stack = STACKS[kind](model)
    heads = heads_of(model, (1, 2, 3), translator="affine") if translated else None
    norm = stack._norm
    norm.weight.copy_(torch.linspace(0.3, 2.0, norm.weight.shape[0]))
    measures = ["top_prob", "margin", "entropy"]
    found, hidden = probed(stack, [looking(one, look) for one in measures], heads)
    wanted = read_look(look)
    weight, scale = model.lm_head.weight.double(), norm.weight.double()
    left, _, _ = torch.linalg.svd(weight * scale, full_matrices=False)
    left = left[:, : wanted.rank]
    listed = None
    for exit, states in enumerate(hidden):
        inputs = states if heads is None else heads.translate(exit + 1, states)
        exact = norm(inputs).double() @ weight.T
        seen = exact @ left @ left.T if wanted.rank else exact
        if wanted.shortlist:
            listed = seen.topk(wanted.shortlist).indices if listed is None else listed
            seen = torch.full_like(exact, -torch.inf).scatter(1, listed, exact.gather(1, listed))
        if wanted.refine:
            best = seen.topk(wanted.refine).indices
            seen = seen.scatter(1, best, exact.gather(1, best))
        for one, expected in zip(found, by_hand(seen), strict=True):
            assert one[:, exit].tolist() == pytest.approx(expected.tolist(), abs=2e-5)


def test_factors_are_made_for_the_states_of_a_text() -> None:
    """The moment by hand; factors of it err less on that text than those of the weights alone."""
    model = random_model("mistral", seed=5)
    stack = STACKS["mistral"](model)
    heads = heads_of(model, (1, 3), translator="affine")
    rows, inputs = [[4, 8, 1], list(range(5, 40))], []
    for row in rows:
        states = HiddenStates(torch.arange(len(row)), len(row), 2)
        token_batch = TokenBatch.of([row], [0], stack.device)
        probe_exits(stack, stack.new_state(1), token_batch, (1, 3), [states])
        inputs += [
            stack.normed(heads.translate(layer, one))
            for layer, one in zip((1, 3), states.hidden[:-1], strict=True)
        ]
    whole = torch.cat(inputs)
    moment = second_moment(stack, rows, (1, 3), heads)
    expected = whole.double().T @ whole.double() / len(whole)
    torch.testing.assert_close(moment, expected, rtol=1e-5, atol=1e-6)
    exact = stack.project(whole)
    plain = (stack.project_low_rank(whole, 4) - exact).square().mean()
    stack.cheap_projection.calibrate(moment)
    fitted = (stack.project_low_rank(whole, 4) - exact).square().mean()
    scaled = model.lm_head.weight.double() @ torch.linalg.cholesky(expected)
    least = torch.linalg.svdvals(scaled)[4:].square().sum() / VOCAB
    assert fitted < plain
    assert float(fitted) == pytest.approx(float(least), rel=1e-2)


def test_emission_is_the_exact_projection_whatever_the_look() -> None:
    """A token that exits emits what a fixed depth emits, however little the look sees."""
    stack = STACKS["mistral"](random_model("mistral", 4, seed=2))
    requests, _ = uneven_requests()
    exact, cheap = (
        generate(stack, requests, policy=ExitPolicy((2, 3), name, 0.0))
        for name in ("top_prob", "top_prob|rank:1")
    )
    assert [one.trace.tokens for one in cheap] == [one.trace.tokens for one in exact]


class EmissionReader(Measure):
    """Reads what a cheap look does not compute."""

    facts = MeasureFacts(reads="logits")

    def ask(self, view: ExitView) -> Tensor:
        return (view.emission >= 0).float()


def test_a_measure_from_outside_gets_the_logits_of_the_look_and_no_other() -> None:
    register(MeasureFacts(name="reader@look", reads="logits", outside=True), EmissionReader)
    stack = STACKS["mistral"](random_model("mistral", 4))
    exact, _ = probed(stack, ["reader@look"])
    assert exact[0].eq(1.0).all()
    with pytest.raises(ValueError, match="cheap look"):
        probed(stack, ["reader@look|rank:3"])


# --- names and costs -----------------------------------------------------------------------------


@given(looks)
def test_names_of_looks_are_read_back(look: Look) -> None:
    assert read_look(look.name) == look
    name = looking("top_prob", look.name)
    assert split_look(name) == ("top_prob", look)
    assert (name == "top_prob") == (look == FULL)
    facts = facts_of(name)
    assert (facts.name, facts.look) == (name, look)
    assert facts.least_exits == (2 if look.shortlist and not look.rank else 1)


@pytest.mark.parametrize(
    "text",
    [
        *("", "rank", "rank:0", "rank:-1", "rank:x", "rank:2+rank:3", "list:9", "full+rank:2"),
        *("refine:9", "rank:2+shortlist:9+refine:3"),
    ],
)
def test_no_other_name_is_a_look(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no look|refine:M refines"):
        read_look(text)


def test_measures_without_logits_have_no_look() -> None:
    for name, facts in BUILT_IN.items():
        if facts.reads != "logits":
            with pytest.raises(ValueError, match="reads no logits"):
                facts_of(looking(name, "rank:4"))


def test_a_look_costs_its_products() -> None:
    """In multiply-adds, at exits 0 and 1, for D = 10 and V = 1000."""
    wanted = {
        "full": (10_000, 10_000),
        "rank:3": (3 * 1010, 3 * 1010),
        "shortlist:20": (10_000, 200),
        "rank:3+shortlist:20": (3 * 1010 + 200, 200),
        "rank:3+refine:20": (3 * 1010 + 200, 3 * 1010 + 200),
    }
    for name, products in wanted.items():
        look = read_look(name)
        assert tuple(look.flops(exit, 10, 1000) // 2 for exit in (0, 1)) == products
