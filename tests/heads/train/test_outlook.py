"""What a run says about itself follows from its own tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.heads.train.evaluate import THRESHOLDS, ExitReport, PolicyReport
from dynamax_lm.heads.train.outlook import CLOSE, against_top_prob, too_few

SHARES = st.floats(0.0, 1.0)
LAYERS = st.floats(1.0, 16.0)
POLICIES = st.lists(
    st.tuples(LAYERS, SHARES, LAYERS, SHARES), min_size=len(THRESHOLDS), max_size=len(THRESHOLDS)
).map(lambda rows: [PolicyReport(t, *row) for t, row in zip(THRESHOLDS, rows, strict=True)])


def exit_of(ranking: float, top_prob: float) -> ExitReport:
    return ExitReport(4, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, ranking, top_prob)


@pytest.mark.parametrize(("parameters", "tokens", "warned"), [(344547, 302, True), (9, 9, False)])
def test_fewer_tokens_than_parameters_are_a_warning(
    parameters: int, tokens: int, warned: bool
) -> None:
    line = too_few(parameters, tokens, classifier="ffn")
    other = too_few(parameters, tokens, classifier="none")
    linear = too_few(parameters, tokens, classifier="linear")
    assert ("--head linear" in line, "--rank" in other) == (bool(line), bool(line))
    assert "--head linear" not in other
    assert "smaller" not in linear, "there is no smaller one"
    assert bool(linear) == bool(line)
    assert bool(line) == warned
    assert not warned or f"{parameters:,}" in line


@given(policies=POLICIES, rankings=st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=4))
def test_lines_compare_the_head_with_top_prob(
    policies: list[PolicyReport], rankings: list[tuple[float, float]]
) -> None:
    lines = against_top_prob([exit_of(*pair) for pair in rankings], policies, 16)
    own = sum(pair[0] for pair in rankings) / len(rankings)
    assert f"head {own:.3f}, top_prob" in lines[0]
    close = sorted(one.layers_used for one in policies if one.agreement >= CLOSE)
    assert f"head {close[0] if close else 16:.2f}," in lines[1]
    usual = next(one for one in policies if one.threshold == 0.9)
    assert (len(lines) == 3) == (usual.layers_used > 15.95)
    assert all("\n" not in line for line in lines)
