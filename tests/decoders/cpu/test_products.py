"""A packed product is the plain one to rounding, and what cannot be packed stays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.cpu import chosen_products as chosen
from dynamax_lm.decoders.cpu.chosen_products import (
    ChosenProducts,
    Kind,
    LinearPlace,
    choose_products,
)
from dynamax_lm.decoders.cpu.product_choice import PACKED
from dynamax_lm.decoders.cpu.product_rule import TRUSTED, UNPACKED, Choice
from dynamax_lm.decoders.cpu.products import (
    Packed,
    can_call,
    can_pack,
    computes_alone,
    is_plain,
    project_first,
    project_parted,
    project_rest,
    project_trusted,
    turned,
    unpacked,
)
from tests.builders import STACKS, Shape, prompts, random_model, shapes

LARGE = 512  # a square weight of this side is worth the measurement
LOW = st.booleans() if can_pack(torch.zeros(1, dtype=torch.bfloat16)) else st.just(False)
"""Whether in bfloat16, on processors that have its arranged product."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 12),
    into=st.integers(1, 40),
    out=st.integers(2, 40),
    bias=st.booleans(),
    cut=st.integers(0, 39),
    parted=st.booleans(),
    at_once=st.sampled_from([0, 7, 16, 1024]),
    low=LOW,
    seed=st.integers(0, 99),
)
def test_packed_is_the_plain_product_to_rounding(
    rows: int,
    into: int,
    out: int,
    bias: bool,
    cut: int,
    parted: bool,
    at_once: int,
    low: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    cut = 1 + cut % (out - 1)
    dtype, tolerance = (torch.bfloat16, 2e-2) if low else (torch.float32, 1e-5)
    linear = nn.Linear(into, out, bias=bias).to(dtype)
    x = torch.randn(rows, into).to(dtype)
    wide = copy.deepcopy(linear).double()
    exact = wide(x.double())
    packed = Packed(linear, cut if parted else 0, at_once)
    found = [packed(x)]
    for layer in (packed, linear):
        found.append(torch.cat(project_parted(layer, x, cut, project_trusted), dim=-1))
        products = [F.linear, turned] + [unpacked] * (can_call(linear.weight) and not low)
        for product in products:
            first, rest = (
                part(layer, x, cut, lambda *_, chosen=product: chosen).double()
                for part in (project_first, project_rest)
            )
            torch.testing.assert_close(
                torch.cat([first, rest], dim=-1), exact, rtol=tolerance, atol=tolerance
            )
    for ours in found:
        assert ours.shape == exact.shape
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)
    assert torch.equal(packed.weight, linear.weight)
    assert all(
        torch.equal(linear.state_dict()[name], one) for name, one in packed.state_dict().items()
    )
    assert packed.state_dict().keys() == linear.state_dict().keys()
    counted = [sum(one.numel() for one in layer.parameters()) for layer in (packed, linear)]
    assert counted[0] == counted[1]


@settings(max_examples=40, deadline=None)
@given(
    shape=shapes(),
    rows=prompts(min_rows=2, longest=8),
    skipped=st.sampled_from(["propagate", "recompute"]),
    leave_at=st.integers(0, 1),
    low=LOW,
)
def test_a_packed_stack_is_the_same_stack(
    shape: Shape, rows: list[tuple[int, ...]], skipped: str, leave_at: int, low: bool
) -> None:
    """Prompts with pads, then a token a row of which some leave; and the model's own forward."""
    model = shape.model(torch.bfloat16 if low else torch.float32)
    tied = copy.deepcopy(model)
    stacks = [STACKS[shape.kind](one) for one in (model, tied)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "_WORTH_MEASURING", 0)
        stacks[1].choose_products(batch=len(rows), asked=PACKED)
    kinds = [{type(part) for part in one.modules()} for one in (model, tied)]
    assert Packed not in kinds[0]
    assert Packed in kinds[1]
    assert (type(tied.lm_head) is Packed) is not shape.model().config.tie_word_embeddings
    assert tied.num_parameters() == model.num_parameters()
    found = [steps(stack, rows, skipped, leave_at) for stack in stacks]
    found.append([one(torch.tensor([rows[0]])).logits[0] for one in (model, tied)])
    # bfloat16 products are the same to the last bit, until float32 sums between them differ
    tolerance = 0.05 if low else 1e-4
    for plain, packed in [(found[0][0], found[1][0]), (found[0][1], found[1][1]), found[2]]:
        torch.testing.assert_close(packed, plain, rtol=tolerance, atol=tolerance * 10 * low + 1e-4)


def steps(
    stack: object, rows: list[tuple[int, ...]], skipped: str, leave_at: int
) -> tuple[Tensor, Tensor]:
    """Logits of the prompts' last tokens, and of a further token where the first row left."""
    known = stack
    state = known.new_state(len(rows))  # type: ignore[attr-defined]
    logits = []
    for token_batch in (
        TokenBatch.of(rows, range(len(rows)), torch.device("cpu"), prefill=True),
        TokenBatch.of([[3]] * len(rows), range(len(rows)), torch.device("cpu")),
    ):
        run = known.begin(state, token_batch, skipped)  # type: ignore[attr-defined]
        hidden = known.embed(run)  # type: ignore[attr-defined]
        for layer in range(known.n_layers):  # type: ignore[attr-defined]
            if layer == leave_at and not token_batch.prefill:
                leaving = torch.arange(len(rows)) < 1
                run.freeze(leaving, hidden)
                hidden = hidden[~leaving]
            hidden = known.layer(layer, hidden, run)  # type: ignore[attr-defined]
        known.end(state, run)  # type: ignore[attr-defined]
        real = hidden
        if token_batch.prefill:
            real = hidden.unflatten(0, token_batch.ids.shape)[:, -1]
        logits.append(known.unembed(real).float())  # type: ignore[attr-defined]
    return logits[0], logits[1]


def test_what_cannot_be_packed_stays() -> None:
    assert can_pack(torch.zeros(2, 2)) == torch.backends.mkldnn.is_available()
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        hooked = nn.Linear(8, 8)
        getattr(hooked, register)(lambda *given: None)
        assert not is_plain(hooked)
    other = nn.Linear(8, 8)
    assert is_plain(other)
    other.weight = OtherNumbers(other.weight)
    assert not is_plain(other)

    class Quantised(nn.Linear):
        pass

    assert not is_plain(Quantised(8, 8))
    layers = nn.ModuleDict(
        {
            "small": nn.Linear(8, 8),
            "large": nn.Linear(LARGE, LARGE),
            "tied": nn.Linear(LARGE, LARGE),
            "wide": nn.Linear(LARGE, LARGE).double(),
            "strange": Quantised(LARGE, LARGE),
        }
    )
    slots = [LinearPlace(layers, name, stays=name == "tied") for name in layers]
    for _ in range(2):  # again: nothing more to do
        choose_products(slots, batch=1, asked=PACKED)
        packed = {name for name, layer in layers.items() if type(layer) is Packed}
        assert packed == ({"large"} if torch.backends.mkldnn.is_available() else set())


class OtherNumbers(nn.Parameter):
    """A weight that says float32 and is quantised inside, as torchao has them."""


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_hooks_of_a_model_that_somebody_hands_in_are_heard(kind: str) -> None:
    """At projections, norms and the gated block alike, whatever is written out in their place."""
    model = random_model(kind)
    heard: set[str] = set()
    for name, part in model.named_modules():
        if name.split(".")[-1] in HOOKED:
            part.register_forward_pre_hook(lambda *given, name=name: heard.add(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "_WORTH_MEASURING", 0)
        stack = STACKS[kind](model)
        stack.choose_products(batch=2, asked=PACKED)
        steps(stack, [(1, 2, 3), (4,)], "propagate", 1)
    every = {name for name, _ in model.named_modules() if name.split(".")[-1] in HOOKED}
    assert heard == every


HOOKED = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "mlp", "gate_proj", "up_proj", "down_proj"),
    *("input_layernorm", "post_attention_layernorm", "norm", "norm_f", "in_proj", "out_proj"),
    "lm_head",
)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("cut", [0, 5])
def test_a_packed_layer_can_be_copied(copied: Callable[[Packed], Packed], cut: int) -> None:
    packed = Packed(nn.Linear(2048, 12), cut, 1024)
    again = copied(packed)
    x = torch.randn(2048)
    assert torch.equal(again(x), packed(x))
    assert (again.cut, again.width) == (cut, 1024)


def test_gradients_and_autocast_take_the_plain_weight() -> None:
    linear = nn.Linear(LARGE, LARGE)
    packed = Packed(linear)
    x = torch.randn(2, 3, LARGE)
    assert packed(x).shape == (2, 3, LARGE)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(x), linear(x))
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        packed(leaf).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad[0, 0], linear.weight.sum(0))
    unpacked = chosen_unpacked(linear)
    with torch.enable_grad():
        assert not computes_alone(x, linear.weight)
        assert torch.equal(unpacked.project(linear, x[0]), project_trusted(linear, x[0]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unpacked.project(linear, x[0]), project_trusted(linear, x[0]))
    assert not computes_alone(x.bfloat16(), linear.weight)


def chosen_unpacked(linear: nn.Linear) -> ChosenProducts:
    """oneDNN's product of the plain weight for more rows than one."""
    kind = Kind(*linear.weight.shape, linear.weight.dtype, 0, True)
    return ChosenProducts("auto", 2, {kind: Choice(TRUSTED, UNPACKED)}, {kind: 1})


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_plain_weight_is_multiplied_as_was_chosen(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, x = nn.Linear(LARGE, 24), torch.randn(rows, LARGE)
    calls: list[int] = []

    def spy(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(inputs.shape[0])
        return F.linear(inputs, weight, bias)

    monkeypatch.setattr(chosen, "unpacked", spy)
    found = chosen_unpacked(linear).project(linear, x)
    torch.testing.assert_close(found, linear(x))
    assert calls == ([rows] if rows > 1 and torch.backends.mkldnn.is_available() else [])
    hooked = copy.deepcopy(linear)
    hooked.register_forward_hook(lambda *given: None)
    chosen_unpacked(linear).project(hooked, x)
    chosen_unpacked(linear).project(nn.Linear(LARGE, 25), x)
    assert len(calls) <= 1
