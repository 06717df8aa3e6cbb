"""Classifiers: step by step is in parallel, rows do not mix, and the cost is what was counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dynamax_lm.heads import ExitHeads
from dynamax_lm.heads.mamba2_block import Mixer
from tests.heads.builders import CLASSIFIERS, heads_config, kinds, random_heads

EXITS = (1, 3, 4, 5)


def hidden_states(rows: int, length: int, width: int = 16, seed: int = 0) -> dict[int, Tensor]:
    """(B, T, D) at each exit, whose scale grows with depth as a residual stream's does."""
    generator = torch.Generator().manual_seed(seed)
    return {layer: layer * torch.randn(rows, length, width, generator=generator) for layer in EXITS}


def nested_masks(rows: int, length: int, seed: int) -> dict[int, Tensor]:
    """Which tokens are asked: one that left below is asked no more."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(0, len(EXITS) + 1, (rows, length), generator=generator)
    started = torch.arange(length) >= torch.randint(0, length, (rows, 1), generator=generator)
    return {layer: (left >= place) & started for place, layer in enumerate(EXITS)}


def in_chunks(
    heads: ExitHeads, hidden: dict[int, Tensor], masks: dict[int, Tensor], cuts: list[int]
) -> dict[int, Tensor]:
    """Confidences of the tokens asked, the texts fed in pieces, each a pass of its own."""
    rows, length = masks[EXITS[0]].shape
    state = heads.new_state(rows)
    found = {layer: torch.zeros(rows, length) for layer in EXITS}
    for start, stop in zip([0, *cuts], [*cuts, length], strict=True):
        heads.begin(state, rows * (stop - start))
        for layer in EXITS:
            row, column = masks[layer][:, start:stop].nonzero(as_tuple=True)
            found[layer][row, column + start] = heads.confidence(
                layer,
                hidden[layer][row, column + start],
                rows=row,
                tokens=row * (stop - start) + column,
                state=state,
            )
    return found


@settings(max_examples=60)
@given(
    options=kinds(),
    rows=st.integers(1, 4),
    length=st.integers(1, 12),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_cut_of_the_texts_says_the_same(
    options: dict[str, Any], rows: int, length: int, seed: int, data: st.DataObject
) -> None:
    """Training's parallel form, single steps, and anything between."""
    heads = random_heads(heads_config(**options), seed)
    hidden, masks = hidden_states(rows, length, seed=seed), nested_masks(rows, length, seed)
    parallel = heads.training_logits(hidden, masks)
    steps = list(range(1, length))
    some = sorted(data.draw(st.sets(st.sampled_from(steps)))) if steps else []
    for cuts in (steps, some):
        found = in_chunks(heads, hidden, masks, cuts)
        for layer in EXITS:
            expected = torch.where(masks[layer], torch.sigmoid(parallel[layer]), 0.0)
            assert torch.allclose(found[layer], expected, atol=1e-5)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_rows_do_not_mix(classifier: str) -> None:
    heads = random_heads(heads_config(classifier))
    hidden, masks = hidden_states(3, 6), nested_masks(3, 6, 1)
    together = heads.training_logits(hidden, masks)
    for row in range(3):
        one = slice(row, row + 1)
        alone = heads.training_logits(
            {layer: states[one] for layer, states in hidden.items()},
            {layer: mask[one] for layer, mask in masks.items()},
        )
        for layer in EXITS:
            assert torch.allclose(alone[layer], together[layer][one], atol=1e-5)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_only_a_mamba_along_tokens_remembers_tokens(classifier: str) -> None:
    heads = random_heads(heads_config(classifier))
    hidden = hidden_states(1, 5)
    changed = {layer: states.clone() for layer, states in hidden.items()}
    for states in changed.values():
        states[:, 0] += 1.0
    before, after = heads.training_logits(hidden), heads.training_logits(changed)
    remembers = not torch.equal(before[5][:, 1:], after[5][:, 1:])
    assert remembers == (classifier == "mamba")
    only_first = {**hidden, 1: changed[1]}
    carries = not torch.equal(before[5], heads.training_logits(only_first)[5])
    assert carries == (classifier == "mamba_depth")


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_scale_of_hidden_states_does_not_matter(classifier: str) -> None:
    heads = random_heads(heads_config(classifier))
    hidden = hidden_states(2, 4)
    louder = {layer: 1000 * states for layer, states in hidden.items()}
    for layer, logits in heads.training_logits(hidden).items():
        again = heads.training_logits(louder)[layer]
        assert torch.allclose(again, logits, atol=1e-4)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_every_weight_learns_and_only_from_tokens_asked(classifier: str) -> None:
    torch.manual_seed(0)
    heads = ExitHeads(heads_config(classifier)).train()
    hidden, masks = hidden_states(3, 7), nested_masks(3, 7, 2)
    for states in hidden.values():
        states.requires_grad_(True)
    sum(
        logits.square().sum() for logits in heads.training_logits(hidden, masks).values()
    ).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0, name
    if classifier != "mamba_depth":
        for layer, states in hidden.items():
            assert states.grad is not None
            assert not states.grad[~masks[layer]].any()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_mixed_precision_trains_and_does_not_judge(classifier: str) -> None:
    heads = random_heads(heads_config(classifier))
    hidden, masks = hidden_states(2, 5), nested_masks(2, 5, 3)
    exact = in_chunks(heads, hidden, masks, [2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = heads.training_logits(hidden, masks)
        mixed = in_chunks(heads, hidden, masks, [2])
    assert all(one.dtype == torch.float32 for one in logits.values())
    for layer in EXITS:
        assert torch.equal(mixed[layer], exact[layer])


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_calibration_is_inside_the_confidence(classifier: str) -> None:
    plain = heads_config(classifier)
    pair = {"scale": 2.5, "bias": -0.75}
    heads = random_heads(heads_config(classifier, calibration={"3": pair}))
    hidden = hidden_states(2, 1)
    masks = {layer: torch.ones(2, 1, dtype=torch.bool) for layer in EXITS}
    calibrated = in_chunks(heads, hidden, masks, [])
    raw = in_chunks(random_heads(plain), hidden, masks, [])
    assert torch.equal(calibrated[1], raw[1])
    expected = torch.sigmoid(2.5 * torch.logit(raw[3].double()) - 0.75).float()
    assert torch.allclose(calibrated[3], expected, atol=1e-4)


# --- the mixer against the recurrence as the paper has it ----------------------------------------


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 50))
def test_the_mixer_is_mamba2s_recurrence(length: int, kernel: int, seed: int) -> None:
    """Plain loops over Mamba-2's equations (arXiv 2405.21060), one channel at a time."""
    torch.manual_seed(seed)
    mixer = Mixer(4, expand=2, head_dim=2, state_size=3, conv_kernel=kernel).double()
    inputs = torch.randn(1, length, 4, dtype=torch.float64)
    with torch.no_grad():
        mixed, _ = mixer(inputs, mixer.empty(1))
        projected = mixer.in_proj(inputs)[0].tolist()
    weight, bias = mixer.conv_weight[:, 0].tolist(), mixer.conv_bias.tolist()
    silu = lambda value: value / (1 + math.exp(-value))  # noqa: E731
    state = [[0.0] * 3 for _ in range(8)]
    for time in range(length):
        taps = range(kernel)
        xbc = [
            silu(
                bias[channel]
                + sum(
                    weight[channel][tap] * projected[time - kernel + 1 + tap][8 + channel]
                    for tap in taps
                    if time - kernel + 1 + tap >= 0
                )
            )
            for channel in range(14)
        ]
        x, b, c = xbc[:8], xbc[8:11], xbc[11:]
        outputs = []
        for channel in range(8):
            head = channel // 2
            raw = projected[time][22 + head] + mixer.dt_bias[head].item()
            step = math.log1p(math.exp(raw))
            decay = math.exp(-step * math.exp(mixer.A_log[head].item()))
            for place in range(3):
                state[channel][place] *= decay
                state[channel][place] += step * x[channel] * b[place]
            read = sum(state[channel][place] * c[place] for place in range(3))
            gated = (read + mixer.D[head].item() * x[channel]) * silu(projected[time][channel])
            outputs.append(gated)
        size = math.sqrt(sum(value * value for value in outputs) / 8 + 1e-5)
        expected = [value / size for value in outputs]
        # transformers' scan is float32 inside, whatever it is given
        assert mixed[0, time].tolist() == pytest.approx(expected, abs=1e-4)


# --- what asking costs ---------------------------------------------------------------------------


def counted(run: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@settings(max_examples=40)
@given(options=kinds(), tokens=st.integers(1, 5))
def test_asking_costs_what_the_flop_counter_sees(options: dict[str, Any], tokens: int) -> None:
    """All but the norm and the elementwise advance of the SSM state, which it does not see."""
    config = heads_config(**options)
    heads = random_heads(config)
    state, index = heads.new_state(tokens), torch.arange(tokens)
    heads.begin(state, tokens)
    hidden = torch.randn(tokens, 16)
    found = counted(lambda: heads.confidence(3, hidden, rows=index, tokens=index, state=state))
    unseen = 4 * 16
    if config.classifier in {"mamba", "mamba_depth"}:
        inner = config.expand * config.classifier_width
        unseen += 3 * inner * config.state_size
    assert found == tokens * (heads.classifier_flops(3) - unseen)
    translating = counted(lambda: heads.translate(3, hidden))
    assert translating == tokens * heads.translator_flops(3)
