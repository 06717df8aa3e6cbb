"""What is said of a baseline: its name, and a verdict that paired metrics alone tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.report.static_baseline import FULL_DEPTH, Gain, StaticBaseline, judged

POINT = StaticBaseline("answer", 3.0, 0.5, 0.9, "measured", "not tested")
GAINS = st.sampled_from([(False, False), (True, False), (False, True)]).map(
    lambda pair: Gain("em", *pair)
)


@pytest.mark.parametrize(
    ("depth", "text"), [(3, "3.0"), (3.04, "3.04"), (3.06, "3.1"), (15.96, "15.96"), (8.63, "8.6")]
)
def test_a_fraction_never_reads_as_a_whole_depth(depth: float, text: str) -> None:
    """15.96 of 16 layers are not 16, which would be full depth."""
    assert f"fixed depth {text} of" in replace(POINT, depth=depth).name


@given(gains=st.lists(GAINS, min_size=1, max_size=2), costlier=st.booleans())
def test_only_what_is_shown_decides(gains: list[Gain], costlier: bool) -> None:
    point = replace(POINT, source=FULL_DEPTH) if costlier else POINT
    verdict = judged(point, gains).verdict
    assert (verdict in {"beats", "mixed"}) == any(gain.better for gain in gains)
    assert (verdict in {"is worse", "mixed"}) == any(gain.worse for gain in gains)
    turned = judged(point, [Gain(g.metric, g.worse, g.better) for g in gains]).verdict
    swapped = {"beats": "is worse", "is worse": "beats"}
    assert turned == swapped.get(verdict, verdict)
    if not any(gain.better or gain.worse for gain in gains):
        assert verdict == ("does not beat" if costlier else "not distinguishable")


def test_without_pairs_nothing_is_said() -> None:
    assert judged(POINT, []).verdict == "not tested"
    assert judged(replace(POINT, verdict="unknown"), []).verdict == "unknown"


def test_a_verdict_names_the_metrics_that_made_it() -> None:
    gains = [Gain("em", False, False), Gain("agreement", True, False)]
    found = judged(POINT, gains)
    assert (found.verdict, found.told_by) == ("beats", ("agreement",))
