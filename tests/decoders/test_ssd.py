"""Our kernels err at most twice as much as transformers' own, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from dynamax_lm.decoders import ssd
from dynamax_lm.decoders.ssd import PLAIN
from dynamax_lm.decoders.state_space import Kernels, StateSpace
from dynamax_lm.decoders.transformers_kernels import TRUSTED
from tests.builders import make_config

FLOOR = 16 * torch.finfo(torch.float32).eps
"""Of the largest value: what rounding alone does; the trusted path may be lucky below it."""


@st.composite
def spaces(draw: Any) -> StateSpace:
    """A layer: heads, groups, widths, scan length, limits, bias, strong and weak decays."""
    groups = draw(st.sampled_from([1, 2, 4]))
    heads = groups * draw(st.integers(1, 3))
    width = draw(st.sampled_from([2, 8]))
    options = {
        "num_heads": heads,
        "head_dim": width,
        "hidden_size": heads * width // 2,
        "n_groups": groups,
        "state_size": draw(st.sampled_from([4, 16])),
        "conv_kernel": draw(st.integers(1, 5)),
        "chunk_size": draw(st.sampled_from([1, 4, 16, 256])),
        "use_conv_bias": draw(st.booleans()),
        "time_step_limit": draw(st.sampled_from([(0.0, float("inf")), (0.0, 0.1), (0.0, 2.0)])),
    }
    torch.manual_seed(draw(st.integers(0, 1000)))
    mixer = Mamba2Mixer(make_config("mamba2", 1, **options), layer_idx=0).requires_grad_(False)
    mixer.D.normal_()
    mixer.A_log.uniform_(*draw(st.sampled_from([(-3.0, 0.0), (-1.0, 3.0)])))
    return StateSpace.of(mixer)


class Case:
    """Random inputs of a layer, with empty slots."""

    def __init__(self, data: st.DataObject, space: StateSpace, rows: int, tokens: int) -> None:
        mixer = space.mixer
        torch.manual_seed(data.draw(st.integers(0, 1000)))
        self.x = torch.randn(rows, tokens, mixer.num_heads, mixer.head_dim)
        self.dt = 2 * torch.randn(rows, tokens, mixer.num_heads)
        self.b, self.c = torch.randn(2, rows, tokens, mixer.n_groups, mixer.ssm_state_size)
        shape = (rows, mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)
        self.initial = torch.randn(shape) if data.draw(st.booleans()) else None
        empty = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
        if tokens > 1:  # a row's empty slots stand at its right, as in a token batch
            self.dt[empty, tokens // 2 :] = -torch.inf

    def exact(self, space: StateSpace) -> tuple[Tensor, Tensor]:
        """The recurrence of the paper, token by token, in float64."""
        x, b, c = self.x.double(), self.b.double(), self.c.double()
        repeat = space.mixer.num_heads // space.mixer.n_groups
        b, c = b.repeat_interleave(repeat, 2), c.repeat_interleave(repeat, 2)
        steps = F.softplus(self.dt.double() + space.mixer.dt_bias.double()).clamp(*space.limits)
        decay = -torch.exp(space.mixer.A_log.double())
        shape = (*x[:, 0].shape, b.shape[-1])
        state = x.new_zeros(shape) if self.initial is None else self.initial.double()
        outputs = []
        for token in range(x.shape[1]):
            step = steps[:, token, :, None]
            added = (step * x[:, token])[..., None] * b[:, token, :, None]
            state = state * torch.exp(step * decay[:, None])[..., None] + added
            read = (state * c[:, token, :, None]).sum(-1)
            outputs.append(read + x[:, token] * space.mixer.D.double()[:, None])
        return torch.stack(outputs, 1), state


def no_worse(ours: Tensor, trusted: Tensor, exact: Tensor) -> None:
    """At most twice the trusted path's error, or what rounding alone explains."""
    error, allowed = (ours - exact).abs().max(), 2 * (trusted - exact).abs().max()
    assert error <= max(allowed, FLOOR * exact.abs().max()), f"{error} > {allowed}"


@settings(max_examples=60)
@given(space=spaces(), rows=st.integers(1, 3), tokens=st.integers(1, 150), data=st.data())
def test_the_scan_is_the_recurrence(
    space: StateSpace, rows: int, tokens: int, data: st.DataObject
) -> None:
    case = Case(data, space, rows, tokens)
    exact, last = case.exact(space)
    before = None if case.initial is None else case.initial.clone()
    results = [
        kernels.scan(space, case.x, case.dt, case.b, case.c, case.initial)
        for kernels in (PLAIN, TRUSTED)
    ]
    no_worse(results[0][0], results[1][0], exact)
    no_worse(results[0][1], results[1][1], last)
    if before is not None:
        assert torch.equal(case.initial, before), "the state before is left as it was"


@settings(max_examples=40)
@given(space=spaces(), rows=st.integers(1, 4), data=st.data())
def test_a_step_is_a_scan_of_one_token(space: StateSpace, rows: int, data: st.DataObject) -> None:
    """For all rows, for some in any order, and with no output wanted; others stay as they were."""
    case = Case(data, space, rows, 1)
    start = torch.randn(rows, *(case.x.shape[2:]), case.b.shape[-1])
    case.initial = start
    exact, last = case.exact(space)
    order = data.draw(st.permutations(range(rows)))
    worth = data.draw(st.sampled_from([0, 1 << 18]))  # group by group from the start, or never
    some = order[: data.draw(st.integers(1, rows))]
    for chosen in (None, some):
        picked = list(range(rows)) if chosen is None else chosen
        outputs, states = [], []
        for kernels in (PLAIN, TRUSTED):
            state = start.clone()
            inputs = (case.x[picked, 0], case.dt[picked, 0], case.b[picked, 0])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ssd, "_WORTH_BLOCKS", worth)
                outputs.append(kernels.step(space, state, chosen, *inputs, case.c[picked, 0]))
            states.append(state)
            silent = start.clone()
            kernels.step(space, silent, chosen, *inputs, None)
            torch.testing.assert_close(silent, state)  # our step, where theirs would read out
        no_worse(outputs[0], outputs[1], exact[picked, 0])
        no_worse(states[0][picked], states[1][picked], last[picked])
        others = [row for row in range(rows) if row not in picked]
        assert torch.equal(states[0][others], start[others])


@settings(max_examples=40)
@given(space=spaces(), rows=st.integers(1, 4), tokens=st.integers(1, 12), data=st.data())
def test_a_few_tokens_of_some_rows_are_a_scan(
    space: StateSpace, rows: int, tokens: int, data: st.DataObject
) -> None:
    """In any order, with empty slots, and with no output wanted; others stay as they were."""
    case = Case(data, space, rows, tokens)
    start = torch.randn(rows, *(case.x.shape[2:]), case.b.shape[-1])
    case.initial = start
    exact, last = case.exact(space)
    order = data.draw(st.permutations(range(rows)))
    picked = order[: data.draw(st.integers(1, rows))]
    inputs = (case.x[picked], case.dt[picked], case.b[picked])
    state, silent = start.clone(), start.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssd, "_WORTH_ROWS", 0)
        output = PLAIN.continue_rows(space, state, picked, *inputs, case.c[picked])
        assert PLAIN.continue_rows(space, silent, picked, *inputs, None) is not None
    assert output is not None
    assert torch.equal(silent, state)
    theirs, after = TRUSTED.scan(space, *inputs, case.c[picked], start[picked])
    no_worse(output, theirs, exact[picked])
    no_worse(state[picked], after, last[picked])
    others = [row for row in range(rows) if row not in picked]
    assert torch.equal(state[others], start[others])


def test_small_states_and_long_continuations_are_left_to_a_scan() -> None:
    mixer = Mamba2Mixer(make_config("mamba2", 1), layer_idx=0).requires_grad_(False)
    space = StateSpace.of(mixer)
    shape = (2, mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)
    for tokens, worth in ((3, 1 << 30), (33, 0)):
        x = torch.randn(2, tokens, *shape[1:3])
        dt = torch.randn(2, tokens, shape[1])
        b = torch.randn(2, tokens, mixer.n_groups, shape[3])
        state = torch.randn(shape)
        before = state.clone()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ssd, "_WORTH_ROWS", worth)
            assert PLAIN.continue_rows(space, state, [0, 1], x, dt, b, b) is None
        assert torch.equal(state, before)


@settings(max_examples=40)
@given(space=spaces(), rows=st.integers(1, 3), tokens=st.integers(1, 20), data=st.data())
def test_convolutions_agree(space: StateSpace, rows: int, tokens: int, data: st.DataObject) -> None:
    """All at once, with and without inputs before, and one at a time over a window."""
    kernel, channels = space.taps.shape
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    window = torch.randn(rows, kernel, channels)
    new = torch.randn(rows, tokens, channels)
    for seen in (new, torch.cat([window, new], 1)):
        padded = F.pad(seen.double(), (0, 0, kernel - 1, 0)).transpose(1, 2)
        conv = space.mixer.conv1d
        bias = None if conv.bias is None else conv.bias.double()
        exact = F.conv1d(padded, conv.weight.double(), bias, groups=channels)[:, :, -tokens:]
        exact = F.silu(exact).transpose(1, 2)
        ours = PLAIN.convolve(space, seen, tokens)
        no_worse(ours, TRUSTED.convolve(space, seen, tokens), exact)
    windows = {"ours": window.clone(), "trusted": window.clone()}
    for token in range(tokens):  # ``exact`` now has the window before the first token
        one = PLAIN.convolve_step(space, windows["ours"], new[:, token])
        other = TRUSTED.convolve_step(space, windows["trusted"], new[:, token])
        no_worse(one, other, exact[:, token])
        assert torch.equal(windows["ours"], windows["trusted"])


@pytest.mark.parametrize("kernels", [PLAIN, TRUSTED])
def test_bfloat16_errs_no_more_than_transformers_own(kernels: Kernels) -> None:
    """Against float32, on the same rounded weights and inputs."""
    torch.manual_seed(0)
    mixer = Mamba2Mixer(make_config("mamba2", 1), layer_idx=0).requires_grad_(False)
    rounded = mixer.bfloat16()
    spaces = {"bfloat16": StateSpace.of(rounded)}
    x, dt, b, c = (
        torch.randn(2, 70, *shape).bfloat16() for shape in [(4, 8), (4,), (2, 8), (2, 8)]
    )
    theirs, _ = TRUSTED.scan(spaces["bfloat16"], x, dt, b, c, None)
    ours, _ = kernels.scan(spaces["bfloat16"], x, dt, b, c, None)
    spaces["float32"] = StateSpace.of(mixer.float())
    exact, _ = TRUSTED.scan(spaces["float32"], x.float(), dt.float(), b.float(), c.float(), None)
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()
