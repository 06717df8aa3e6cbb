"""Pairing by document: exact where runs are the same, refused where they are not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.common.intervals import FEWEST, SHARE
from dynamax_lm.report.difference import difference
from dynamax_lm.report.document_values import MismatchError
from dynamax_lm.report.load import load
from dynamax_lm.report.paired import against_full_depth, compare
from dynamax_lm.report.rows import rows_of
from dynamax_lm.report.runs import MetricKey
from dynamax_lm.report.tables import difference_text

EM = MetricKey("em", "none")
ONE = {"gen": GENERATION}
shares = st.lists(st.floats(0, 1), min_size=FEWEST, max_size=30)


@given(shares)
def test_a_run_against_itself_shows_nothing(numbers: list[float]) -> None:
    found = difference(numbers, numbers, SHARE)
    assert (found.mean, found.differing) == (0.0, 0)
    assert found.low < 0 < found.high, "equal documents do not make the next one equal"
    assert found.p_higher == found.p_lower == 1.0


@given(shares, st.randoms(use_true_random=False))
def test_swapping_the_sides_turns_the_difference(numbers: list[float], rng: object) -> None:
    others = [rng.random() for _ in numbers]  # type: ignore[attr-defined]
    one, other = difference(numbers, others, SHARE), difference(others, numbers, SHARE)
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high, abs=1e-7)
    assert one.p_higher == pytest.approx(other.p_lower)
    assert one.low <= one.mean <= one.high


@pytest.mark.parametrize("count", [2, 6, 20])
@pytest.mark.parametrize("gap", [0.03, 0.5])
def test_a_constant_gap_is_an_interval_too(count: int, gap: float) -> None:
    """Documents that were not asked may differ by more, or the other way round."""
    found = difference([1.0] * count, [1.0 - gap] * count, SHARE)
    assert found.low < gap < found.high
    if count == 2:
        assert (found.tested, found.p_higher) == (False, 1.0)


def test_many_documents_of_a_constant_gap_show_it() -> None:
    found = difference([1.0] * 1000, [0.97] * 1000, SHARE)
    assert 0 < found.low < 0.03 < found.high < 0.06


@pytest.mark.parametrize("count", [1, 5])
def test_few_documents_have_no_interval(count: int) -> None:
    found = difference([1.0] * count, [0.5] * count, SHARE)
    assert found[:7] == (count, count, 0.5, -math.inf, math.inf, 1.0, 1.0)


def test_without_bounds_there_is_no_interval(tmp_path: Path) -> None:
    assert not difference([1.0] * 50, [0.5] * 50, None).tested
    _rename(tmp_path, "perplexity_of_mine")
    library = load([tmp_path])
    row = next(r for r in rows_of(library.runs) if r.key.metric == "perplexity_of_mine")
    found = against_full_depth(library, row)
    assert found.difference is not None
    assert not found.difference.tested
    assert "not bounded" in found.reason


def test_values_outside_their_bounds_are_refused(tmp_path: Path) -> None:
    """An F1 in percent is another metric than the one whose bounds are known."""
    for name, gain in (("a", 40.0), ("b", 0.0)):
        write_run(tmp_path / name, Plan(documents=8, gain=gain, tasks=ONE, date=ord(name)))
    library = load([tmp_path])
    with pytest.raises(MismatchError, match=r"em is not what its name says: .*outside"):
        compare(library, *library.runs, "gen", EM)


def _rename(folder: Path, metric: str) -> None:
    made = write_run(folder, Plan(documents=8, tasks=ONE))
    for path in (made.results, made.samples["gen"]):
        text = path.read_text().replace('em,none"', f'{metric},none"')
        path.write_text(text.replace('em"', f'{metric}"').replace("em_stderr", f"{metric}_stderr"))


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
    write_run(tmp_path / "a", Plan(documents=6, gain=0.25, date=1.0, scale=0.5))
    write_run(tmp_path / "b", Plan(documents=6, date=2.0, scale=0.5))
    library = load([tmp_path])
    found = compare(library, *library.runs, "gen", EM)
    assert (found.documents, found.mean, found.differing) == (6, pytest.approx(0.25), 6)
    assert found.low < 0.25 < found.high


def test_questions_about_one_passage_are_one_unit(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks={"gen": GENERATION}, documents=24))
    (row,) = rows_of(load([tmp_path]).runs)
    alone = against_full_depth(load([tmp_path]), row)
    (path,) = made.samples.values()
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        line["doc"] = {"story": f"Story {line['doc_id'] // 3}.", "question": str(line["doc_id"])}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    grouped = against_full_depth(load([tmp_path]), row)
    assert alone.difference is not None
    assert grouped.difference is not None
    assert (alone.difference.documents, alone.difference.units) == (24, 24)
    assert (grouped.difference.documents, grouped.difference.units) == (24, 8)
    assert grouped.difference.mean == pytest.approx(alone.difference.mean)
    assert "n = 24 in 8 passages" in difference_text(grouped)
    assert grouped.difference.high - grouped.difference.low > (
        alone.difference.high - alone.difference.low
    )
