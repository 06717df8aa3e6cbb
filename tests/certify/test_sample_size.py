"""How many documents a risk needs: closed form, and the tests themselves."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.certify.sample_size import needed_by_any_test, needed_without_loss
from dynamax_lm.common.risk_tests import (
    PValue,
    betting,
    betting_on_differences,
    binomial,
)
from tests.hoeffding import hoeffding_bentkus

TESTS = [binomial, hoeffding_bentkus, betting, betting_on_differences]


def test_59_documents_for_five_percent() -> None:
    assert needed_by_any_test(0.05, 0.05) == 59
    assert needed_by_any_test(0.5, 0.25) == 2
    assert needed_by_any_test(0.9, 0.9) == 1


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_it_is_the_least_number_without_a_loss(risk: float, delta: float) -> None:
    n = needed_by_any_test(risk, delta)
    assert (1 - risk) ** n <= delta * (1 + 1e-12)
    assert n == 1 or (1 - risk) ** (n - 1) > delta


@pytest.mark.parametrize("p_value", TESTS)
@pytest.mark.parametrize(("risk", "delta"), [(0.05, 0.05), (0.01, 0.1), (0.3, 0.01), (0.9, 0.9)])
def test_fewer_can_never_certify(p_value: PValue, risk: float, delta: float) -> None:
    least = needed_by_any_test(risk, delta)
    n = needed_without_loss(p_value, risk, delta)
    assert n >= least
    assert p_value(np.zeros(n), risk, delta) <= delta
    assert n == 1 or p_value(np.zeros(n - 1), risk, delta) > delta
    for fewer in range(1, min(least, 80)):
        assert p_value(np.zeros(fewer), risk, delta) > delta


@given(st.floats(0.01, 0.9), st.floats(0.01, 0.9))
def test_the_exact_test_needs_no_more_than_any(risk: float, delta: float) -> None:
    """Betting, whose stakes are capped, asks for some more."""
    least = needed_by_any_test(risk, delta)
    assert needed_without_loss(binomial, risk, delta) == least
    assert needed_without_loss(betting, risk, delta) <= 2 * least + 10


@pytest.mark.parametrize("risk", [1e-8, 1e-12, 1e-300, 5e-324])
@pytest.mark.parametrize("test", [binomial, betting, betting_on_differences])
def test_a_tiny_risk_is_counted_without_making_its_documents(risk: float, test: PValue) -> None:
    """One list of their losses would take gigabytes."""
    tracemalloc.start()
    needed = needed_without_loss(test, risk, 0.05)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert needed >= needed_by_any_test(risk, 0.05) > 10**8
    assert most < 1 << 20
