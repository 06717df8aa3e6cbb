from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.heads.train.losses import (
    balanced_cross_entropy,
    distillation,
    exit_weights,
    plain_cross_entropy,
)

pairs = st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=1, max_size=30)


@given(pairs)
def test_balanced_cross_entropy_is_the_mean_of_the_class_means(drawn):
    logits = torch.tensor([z for z, _ in drawn], dtype=torch.float64)
    labels = torch.tensor([y for _, y in drawn])
    means = []
    for label in (True, False):
        chosen = logits[labels == label]
        if len(chosen):
            sure = chosen if label else -chosen
            means.append(-torch.nn.functional.logsigmoid(sure).mean())
    expected = float(sum(means) / len(means))
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(expected, abs=1e-4)


@given(right=st.integers(1, 40), wrong=st.integers(1, 40))
def test_a_blind_classifier_is_asked_for_even_odds_when_balanced_and_the_share_when_plain(
    right, wrong
):
    labels = torch.tensor([True] * right + [False] * wrong)
    share = right / (right + wrong)
    for loss, odds in (
        (balanced_cross_entropy, 0.0),
        (plain_cross_entropy, torch.tensor(share).logit().item()),
    ):
        blind = torch.tensor(odds, requires_grad=True)
        loss(blind.expand(len(labels)), labels).backward()
        assert blind.grad.item() == pytest.approx(0.0, abs=1e-5)


def test_distillation_is_the_divergence_and_nothing_where_equal():
    torch.manual_seed(0)
    exit_logits, full_logits = torch.randn(5, 11), torch.randn(5, 11)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=full_logits),
        torch.distributions.Categorical(logits=exit_logits),
    )
    torch.testing.assert_close(distillation(exit_logits, full_logits), expected)
    same = distillation(full_logits, full_logits + 3.0)
    torch.testing.assert_close(same, torch.zeros(5), atol=1e-6, rtol=0)


@given(exits=st.integers(1, 9), decay=st.floats(0, 1))
def test_weights_fall_by_equal_steps_and_keep_the_mean(exits, decay):
    weights = exit_weights(exits, decay)
    assert sum(weights) == pytest.approx(exits)
    steps = [a - b for a, b in pairwise(weights)]
    assert all(step == pytest.approx(steps[0]) and step >= -1e-12 for step in steps)
    if exits > 1:
        assert weights[-1] / weights[0] == pytest.approx(1 - decay, abs=1e-9)
