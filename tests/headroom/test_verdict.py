"""Each rule of the verdict, and that every verdict shows its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynamax_lm.core.texts import Texts
from dynamax_lm.headroom.estimate import Estimate
from dynamax_lm.headroom.measure import Ceiling, Headroom, LayerNumbers
from dynamax_lm.headroom.verdict import judge, labels_advice

ONE = Estimate(1.0, 1.0, 1.0)


def layer(number: int, *positive: float) -> LayerNumbers:
    return LayerNumbers(number, ONE, dict(zip((1, 2, 3, 5, 10), positive, strict=True)))


def headroom(free: Estimate, checked: Estimate, exits: tuple[int, ...] = (2,)) -> Headroom:
    layers = (layer(1, 0.3, 0.4, 0.5, 0.6, 0.7),)
    return Headroom(
        name="all tasks",
        documents=9,
        units=9,
        tokens=99,
        layers=layers,
        free=Ceiling((1, 2, 3), free, ONE),
        checked=Ceiling(exits, checked, ONE),
        default=Ceiling((2, 3), checked, ONE),
    )


@pytest.mark.parametrize(
    ("free", "checked", "level", "shown"),
    [
        ((0.03, 0.02, 0.04), (0.0, 0.0, 0.0), "not worth it", "3.0% [2.0%, 4.0%]"),
        ((0.2, 0.1, 0.3), (0.02, 0.01, 0.03), "only with cheap checks", "2.0% [1.0%, 3.0%]"),
        ((0.2, 0.1, 0.3), (0.1, 0.06, 0.2), "worth trying", "10.0% [6.0%, 20.0%]"),
        ((0.2, 0.1, 0.3), (0.05, 0.01, 0.09), "undecided", "5.0% [1.0%, 9.0%]"),
        ((0.05, 0.04, 0.06), (0.0, 0.0, 0.0), "undecided", "5.0% [4.0%, 6.0%]"),
        ((0.5, None, None), (0.3, None, None), "undecided", "too few for an interval"),
    ],
)
def test_the_rules(
    free: tuple[float, float | None, float | None],
    checked: tuple[float, float | None, float | None],
    level: str,
    shown: str,
) -> None:
    verdict = judge(headroom(Estimate(*free), Estimate(*checked)))
    assert verdict.level == level
    assert shown in verdict.reason
    assert "untrained exits" in verdict.limits


@pytest.mark.parametrize(("empty", "level"), [(5, "worth trying"), (6, "undecided")])
def test_nothing_follows_from_answers_that_are_mostly_empty(empty: int, level: str) -> None:
    found = headroom(Estimate(0.2, 0.15, 0.25), Estimate(0.1, 0.06, 0.14))
    verdict = judge(replace(found, texts=Texts(10, empty, 3)))
    assert verdict.level == level
    assert (f"{empty} of 10 answers are empty" in verdict.reason) == (level == "undecided")


def test_the_criterion_can_be_changed() -> None:
    found = headroom(Estimate(0.2, 0.15, 0.25), Estimate(0.1, 0.06, 0.14))
    assert judge(found).level == "worth trying"
    assert judge(found, 0.3).level == "not worth it"
    assert "criterion of 30%" in judge(found, 0.3).reason


def test_no_exit_that_pays_is_said_in_words() -> None:
    found = headroom(Estimate(0.2, 0.15, 0.25), Estimate(0.0, 0.0, 0.0), exits=())
    assert judge(found).level == "only with cheap checks"
    assert "no exit saves what a vocabulary check at it costs" in judge(found).reason


def test_the_smallest_balanced_k_is_advised() -> None:
    assert "strict labels do" in labels_advice((layer(1, 0.3, 0.5, 0.6, 0.7, 0.8),))
    relaxed = labels_advice((layer(1, 0.05, 0.08, 0.2, 0.3, 0.4),))
    assert "k = 3 gives it 20%" in relaxed
    assert "75% of the tokens that it calls right are not full depth's" in relaxed
    assert "no label is balanced" in labels_advice((layer(1, 0.01, 0.02, 0.03, 0.04, 0.05),))
    assert "no label is balanced" in labels_advice((layer(1, 0.96, 0.97, 0.98, 0.99, 1.0),))
