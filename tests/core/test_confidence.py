"""Each measure against its definition in numpy's plain terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynamax_lm.core.confidence import make_confidence
from dynamax_lm.core.policy import ExitPolicy

Rows = list[list[float]]
logit_rows = st.integers(2, 9).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-30, 30, width=32), min_size=width, max_size=width),
        min_size=1,
        max_size=4,
    )
)


@dataclass
class View:
    """An exit whose logits, hidden states and tokens are given."""

    exit: int
    index: Tensor
    hidden: Tensor
    logits: Tensor
    emission: Tensor
    target: Tensor
    trained: Tensor


def view(logits: Tensor, exit: int = 0, index: Tensor | None = None) -> View:
    index = torch.arange(logits.shape[0]) if index is None else index
    tokens = logits.argmax(-1)
    return View(exit, index, logits, logits, tokens, tokens, tokens.float())


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


@given(logit_rows)
def test_probability_measures_follow_their_definitions(rows: Rows) -> None:
    logits = torch.tensor(rows)
    ask = {
        name: make_confidence(name, tokens=len(rows), exits=1).ask(view(logits)).tolist()
        for name in ("top_prob", "margin", "entropy")
    }
    for number, row in enumerate(rows):
        probabilities = sorted(softmax(row), reverse=True)
        entropy = -sum(p * math.log(p) for p in probabilities if p > 0)
        assert ask["top_prob"][number] == pytest.approx(probabilities[0], abs=1e-5)
        assert ask["margin"][number] == pytest.approx(probabilities[0] - probabilities[1], abs=1e-5)
        assert ask["entropy"][number] == pytest.approx(1 - entropy / math.log(len(row)), abs=1e-4)


@given(logit_rows, st.sampled_from(["top_prob", "margin", "entropy", "saturation", "patience"]))
def test_every_measure_stays_in_its_range(rows: Rows, name: str) -> None:
    measure = make_confidence(name, tokens=len(rows), exits=3)
    for number in range(3):
        sure = measure.ask(view(torch.tensor(rows) * (number + 1), number))
        assert ((sure >= 0) & (sure <= 1)).all()


def test_entropy_of_an_impossible_token_is_not_nan() -> None:
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert make_confidence("entropy", tokens=1, exits=1).ask(view(logits)).tolist() == [1.0]


def test_saturation_compares_with_the_exit_before_also_after_others_left() -> None:
    measure = make_confidence("saturation", tokens=3, exits=3)
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    assert measure.ask(view(first)).tolist() == [0.0, 0.0, 0.0]
    later = torch.tensor([[4.0, 3.0], [1.0, 0.0]])  # token 1 left
    sure = measure.ask(view(later, 1, torch.tensor([2, 0])))
    assert sure.tolist() == pytest.approx([24 / 25, 1.0])
    opposite = torch.tensor([[-1.0, 0.0]])
    assert measure.ask(view(opposite, 2, torch.tensor([0]))).tolist() == [0.0]


def test_patience_counts_agreeing_exits_in_a_row() -> None:
    measure = make_confidence("patience", tokens=1, exits=5)
    said = [1, 1, 0, 0, 0]
    sure = []
    for number, token in enumerate(said):
        logits = torch.zeros(1, 3)
        logits[0, token] = 5.0
        sure.append(measure.ask(view(logits, number)).item())
    assert sure == [0.0, 0.25, 0.0, 0.25, 0.5]


def test_oracle_asks_whether_the_tokens_are_equal() -> None:
    seen = view(torch.eye(3))
    seen.target = torch.tensor([0, 2, 2])
    assert make_confidence("oracle", tokens=3, exits=1).ask(seen).tolist() == [1.0, 0.0, 1.0]


def test_an_unknown_measure_is_named() -> None:
    with pytest.raises(ValueError, match="'sure'"):
        make_confidence("sure", tokens=1, exits=1)


@given(st.lists(st.floats(0, 1, width=32), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_lets_more_tokens_leave(sure: list[float], a: float, b: float) -> None:
    low, high = sorted((a, b))
    measured = torch.tensor(sure)
    leaves_low = ExitPolicy((1,), "top_prob", low).exiting(measured)
    leaves_high = ExitPolicy((1,), "top_prob", high).exiting(measured)
    assert (leaves_low | ~leaves_high).all()


def test_the_ends_of_the_threshold_are_absolute() -> None:
    sure = torch.tensor([0.0, 0.5, 1.0])
    assert ExitPolicy((1,), "top_prob", 0.0).exiting(sure).tolist() == [True, True, True]
    assert ExitPolicy((1,), "top_prob", 1.0).exiting(sure).tolist() == [False, False, False]


def test_head_is_what_trained_heads_say() -> None:
    asked = view(torch.zeros(3, 4))
    asked.trained = torch.tensor([0.25, 1.0 + 1e-7, -1e-9], dtype=torch.float64)
    sure = make_confidence("head", tokens=3, exits=1).ask(asked)
    assert sure.dtype == torch.float32
    assert sure.tolist() == [0.25, 1.0, 0.0]
