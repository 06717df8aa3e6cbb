"""Pairing by document: exact where runs are the same, refused where they are not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.report.load import load
from dynamax_lm.report.paired import MismatchError, compare, difference
from dynamax_lm.report.runs import MetricKey

EM = MetricKey("em", "none")
ONE = {"gen": GENERATION}
values = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(values)
def test_a_run_against_itself_differs_by_exactly_nothing(numbers: list[float]) -> None:
    assert difference(numbers, numbers) == (len(numbers), 0.0, 0.0, 0.0)


@given(values, st.randoms(use_true_random=False))
def test_swapping_the_sides_turns_the_difference(numbers: list[float], rng: object) -> None:
    others = [x + rng.uniform(-1, 1) for x in numbers]  # type: ignore[attr-defined]
    one, other = difference(numbers, others), difference(others, numbers)
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high, abs=0.2)
    assert one.low <= one.mean <= one.high


def test_the_interval_is_that_of_the_mean() -> None:
    """Against the normal approximation, for many documents."""
    rng = np.random.default_rng(1)
    gaps = rng.normal(0.3, 1.0, 2000)
    found = difference(list(gaps), [0.0] * len(gaps))
    half = 1.96 * gaps.std(ddof=1) / math.sqrt(len(gaps))
    assert found.low == pytest.approx(gaps.mean() - half, abs=0.2 * half)
    assert found.high == pytest.approx(gaps.mean() + half, abs=0.2 * half)


@pytest.mark.parametrize("count", [1, 5])
def test_few_documents_have_no_interval(count: int) -> None:
    found = difference([*[0.5] * (count - 1), 0.5 + count / 2], [0.5] * count)
    assert (found.mean, found.low, found.high) == (0.5, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Plan(salt="x"), "other samples or prompts"),
        (Plan(few_shot=3), "other few-shot: 0 against 3"),
        (Plan(version=2.0), "other task version: 1.0 against 2.0"),
        (Plan(documents=4), "other number of samples: 5 against 4"),
    ],
)
def test_what_was_not_asked_the_same_is_refused(tmp_path: Path, other: Plan, reason: str) -> None:
    write_run(tmp_path / "a", Plan(date=1.0))
    other.date = 2.0
    write_run(tmp_path / "b", other)
    library = load([tmp_path])
    with pytest.raises(MismatchError, match=reason):
        compare(library, *library.runs, "gen", EM)


def test_the_documents_themselves_are_compared(tmp_path: Path) -> None:
    """Even where the results' own hashes are missing."""
    for name, salt in (("a", ""), ("b", "x")):
        made = write_run(tmp_path / name, Plan(salt=salt))
        data = made.data()
        del data["task_hashes"]
        made.change(data)
    library = load([tmp_path])
    with pytest.raises(MismatchError, match="document 0 is not the same"):
        compare(library, *library.runs, "gen", EM)


def test_runs_without_samples_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(date=1.0))
    made = write_run(tmp_path / "b", Plan(date=2.0))
    made.samples["gen"].unlink()
    library = load([tmp_path])
    with pytest.raises(MismatchError, match="--log_samples"):
        compare(library, *library.runs, "gen", EM)


def test_what_is_no_mean_has_no_differences(tmp_path: Path) -> None:
    """Of a perplexity, documents hold log-likelihoods: another scale, and the other way round."""
    for name in ("a", "b"):
        made = write_run(tmp_path / name, Plan(date=ord(name)))
        data = made.data()
        data["results"]["gen"]["em,none"] = 7.0
        made.change(data)
    library = load([tmp_path])
    with pytest.raises(MismatchError, match="not the mean"):
        compare(library, *library.runs, "gen", EM)


def test_a_constant_gain_is_found(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Plan(documents=6, gain=0.25, date=1.0))
    write_run(tmp_path / "b", Plan(documents=6, date=2.0))
    library = load([tmp_path])
    found = compare(library, *library.runs, "gen", EM)
    assert found == (6, pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25))
