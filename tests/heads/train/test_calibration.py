import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from dynamax_lm.heads.train.calibration import (
    IDENTITY,
    Platt,
    fit_platt,
    log_loss,
    quality,
)


def drawn(scale: float, bias: float, n: int = 20_000, seed: int = 0):
    """Log-odds of a classifier whose true probability is sigmoid(scale * z + bias)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=n) * 2
    return logits, rng.random(n) < expit(scale * logits + bias)


def test_a_calibrated_classifier_stays():
    logits, right = drawn(1.0, 0.0)
    fitted = fit_platt(logits, right)
    assert fitted.scale == pytest.approx(1.0, abs=0.05)
    assert fitted.bias == pytest.approx(0.0, abs=0.05)


@given(scale=st.floats(0.2, 3.0), bias=st.floats(-2.0, 2.0), seed=st.integers(0, 99))
def test_the_distortion_is_found_and_log_loss_falls_on_new_tokens(scale, bias, seed):
    logits, right = drawn(scale, bias, n=4000, seed=seed)
    fitted = fit_platt(logits, right)
    assert fitted.scale == pytest.approx(scale, abs=0.3)
    assert fitted.bias == pytest.approx(bias, abs=0.3)
    new_logits, new_right = drawn(scale, bias, n=4000, seed=seed + 1000)
    after = log_loss(fitted.scale * new_logits + fitted.bias, new_right)
    assert after <= log_loss(new_logits, new_right) + 0.002


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=40),
    st.floats(0.01, 50),
)
def test_the_order_of_tokens_is_kept_and_the_fit_is_finite(pairs, stretch):
    logits = np.array([z for z, _ in pairs]) * stretch
    right = np.array([y for _, y in pairs])
    fitted = fit_platt(logits, right)
    assert np.isfinite(fitted).all()
    assert fitted.scale > 0
    order = np.argsort(logits, kind="stable")
    assert (np.diff(fitted(logits[order])) >= -1e-12).all()


def test_separable_classes_keep_a_finite_scale():
    logits = np.array([-1.0, -2.0, 1.0, 2.0])
    fitted = fit_platt(logits, logits > 0)
    assert np.isfinite(fitted).all()
    assert fitted(logits).max() < 1.0


def test_no_token_means_no_change():
    assert fit_platt(np.array([]), np.array([], dtype=bool)) == IDENTITY


def test_quality_against_definitions():
    logits, right = drawn(1.5, 0.5, n=300)
    found = quality(logits, right, Platt(2.0, -0.5))
    p = expit(2.0 * logits - 0.5)
    assert found.log_loss == pytest.approx(-np.mean(np.log(np.where(right, p, 1 - p))))
    pairs = [(a > b) + 0.5 * (a == b) for a in logits[right] for b in logits[~right]]
    assert found.ranking == pytest.approx(np.mean(pairs))
    assert found.right == pytest.approx(right.mean())
    assert quality(logits, np.ones(300, dtype=bool)).ranking == 0.5
