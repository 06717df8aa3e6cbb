"""Prompts that exit with maps of their hidden states for the layers above."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import SharedPrefixes, prefill
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.heads.train.least_squares import Moments
from tests.builders import STACKS, random_model
from tests.engine.test_prompt_exit import KINDS, LAYERS, ROWS, build
from tests.heads.builders import maps_of, random_maps
from tests.laws import ask
from tests.stacks import step

pytestmark = pytest.mark.usefixtures("no_gradients")

WIDTH = 16


def run_on_inputs(stack: Any, rows: list[tuple[int, ...]], maps: PromptMapBank) -> Any:
    """A state whose layers above the exit have been run on the maps; their outputs are unused."""
    state, bodies = stack.new_state(len(rows)), [row[:-1] for row in rows]
    token_batch = TokenBatch.of(bodies, range(len(rows)), stack.device, prefill=True)
    run = stack.begin(state, token_batch, "propagate")
    hidden = stack.embed(run)
    for layer in range(maps.config.prompt_exit):
        hidden = stack.layer(layer, hidden, run)
    group = maps.config.group
    for layer in range(maps.config.prompt_exit, stack.n_layers):
        above = layer - maps.config.prompt_exit - 1
        first = maps.config.prompt_exit + 1 + above // group * group
        own = hidden if above < 0 else maps.maps[str(first)](hidden)
        stack.layer(layer, own, run)
    stack.end(state, run)
    return state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("translator", ["affine", "low_rank"])
def test_the_identity_is_no_map_bit_for_bit(kind: str, translator: str) -> None:
    stack = build(kind)
    maps = random_maps(WIDTH, LAYERS, 1, None, translator=translator)
    if translator == "low_rank":  # "down" starts random; "up" and the bias are zero
        assert any(bool(one.any()) for one in maps.parameters())
    plain, mapped = (prefill(stack, ROWS, PromptExit(1, which)) for which in (None, maps))
    assert torch.equal(step(stack, mapped, len(ROWS)), step(stack, plain, len(ROWS)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt_exit", "group"), [(1, 1), (1, 2), (2, 1)])
def test_layers_above_have_the_state_of_running_them_on_the_maps(
    kind: str, prompt_exit: int, group: int
) -> None:
    """In a padded batch, and in whatever pieces a prompt is run; and random maps matter."""
    stack, maps = build(kind), random_maps(WIDTH, LAYERS, prompt_exit, group=group)
    wanted = step(stack, run_on_inputs(stack, ROWS, maps), len(ROWS))
    ours = prefill(stack, ROWS, PromptExit(prompt_exit, maps))
    found = step(stack, ours, len(ROWS))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    plain = step(stack, prefill(stack, ROWS, PromptExit(prompt_exit)), len(ROWS))
    assert (plain - found).abs().max() > 1e-2
    whole = [ROWS[0], (*ROWS[0][:-1], 3, 4, 1)]
    shared = SharedPrefixes(stack, 2, PromptExit(prompt_exit, maps)).prefill(whole)
    again = run_on_inputs(stack, whole, maps)
    torch.testing.assert_close(step(stack, shared, 2), step(stack, again, 2), rtol=1e-4, atol=1e-5)


def test_exact_maps_leave_full_depths_state() -> None:
    """Least squares finds them where inputs depend on the token alone, and tokens are few.

    No attention but the last layer's has an output, so that the state of the last layer is the only
    one that is read; an affine map of 16 dimensions is exact on 10 points.
    """
    model = random_model("mistral")
    for layer in model.model.layers[:-1]:
        layer.self_attn.o_proj.weight.zero_()
    stack = STACKS["mistral"](model)
    rows = [(1, 5, 9, 2, 2, 7), (8, 3, 1), (4, 6, 5, 9, 8)]
    maps = maps_of(model, 1, None)
    moments = Moments(WIDTH, len(maps.config.groups))
    hidden = model(torch.arange(10)[None], output_hidden_states=True).hidden_states
    moments.add(hidden[1][0], [hidden[layer.start][0] for layer in maps.config.groups])
    for number, layers in enumerate(maps.config.groups):
        made: Any = maps.map_of(layers)
        found = moments.affine(number, 1e-12)
        made.weight.copy_(found.weight)
        made.bias.copy_(found.bias)
    exact = step(stack, prefill(stack, rows), len(rows))
    mapped = step(stack, prefill(stack, rows, PromptExit(1, maps)), len(rows))
    plain = step(stack, prefill(stack, rows, PromptExit(1)), len(rows))
    torch.testing.assert_close(mapped, exact, rtol=1e-3, atol=1e-3)
    assert (plain - exact).abs().max() > 1e-1


def test_maps_of_another_exit_are_refused() -> None:
    policy = ExitPolicy(prompt_exit=2, prompt_maps=random_maps(WIDTH, LAYERS, 1))
    with pytest.raises(ValueError, match="prompt_exit=2: the prompt maps are of 1"):
        generate(build("mistral"), ask(ROWS[:1]), policy=policy)


def test_maps_are_billed_with_the_prompt() -> None:
    """Once for each group, and not for the first layer above, which needs none."""
    costs = build("mistral").costs
    plain = Ledger(costs, prompt_exit=1).answer(9, [LAYERS])
    for group, number in ((1, 2), (2, 1), (5, 1)):
        maps = random_maps(WIDTH, LAYERS, 1, group=group)
        assert maps.flops == number * 2 * WIDTH**2
        bill = Ledger(costs, prompt_exit=1, prompt_maps=maps.flops).answer(9, [LAYERS])
        assert (
            bill.prompt - plain.prompt == 9 * maps.flops == plain.prompt_saved - bill.prompt_saved
        )
        assert bill.flops_saved == plain.flops_saved == 0
    thin = random_maps(WIDTH, LAYERS, 1, translator="low_rank", translator_rank=2)
    assert thin.flops == 2 * 2 * 2 * WIDTH * 2
