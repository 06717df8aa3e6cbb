"""Answers side by side: whose they are, and that marked words are exactly what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import GENERATION, SCORING, Plan, write_plain, write_run

from dynamax_lm.report import side_by_side as module
from dynamax_lm.report.load import load
from dynamax_lm.report.metric_choice import one_metric_each
from dynamax_lm.report.rows import rows_of
from dynamax_lm.report.side_by_side import SideBySide, differing, side_by_side, words_of

ONE = {"gen": GENERATION}
TEXTS = st.text(st.sampled_from("ab ,.\n—é😀"), max_size=30)


@given(TEXTS)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words_of(text)) == text


@given(TEXTS, TEXTS)
def test_what_is_not_marked_is_equal(one: str, other: str) -> None:
    first, second = words_of(one), words_of(other)
    marked = differing(first, second)
    kept = [
        [word for at, word in enumerate(words) if not any(a <= at < b for a, b in ranges)]
        for words, ranges in zip((first, second), marked, strict=True)
    ]
    assert kept[0] == kept[1]
    assert (marked == [[], []]) == (first == second)


def page_of(folder: Path, tokens: dict[tuple[str, str], str] | None = None) -> SideBySide | None:
    library = load([folder])
    (group,) = one_metric_each(rows_of(library.runs))
    return side_by_side(library, group, tokens or {})


def test_every_run_has_its_own_answer_and_numbers(tmp_path: Path) -> None:
    made = [
        write_run(tmp_path / "a", Plan(tasks=ONE, text="one two")),
        write_run(tmp_path / "b", Plan(tasks=ONE, threshold=0.7, seed=1, text="one three")),
        write_run(tmp_path / "c", Plan(tasks=ONE, exits=(), settings={"mode": "full"}, seed=2)),
    ]
    page = page_of(tmp_path)
    assert page is not None
    assert page.runs[0].full
    assert [run.full for run in page.runs[1:]] == [False, False]
    assert (page.further_runs, page.further_documents) == (0, 0)
    for number, row in enumerate(page.rows):
        (one,) = (one for one in made if one.results == row.run.path)
        lines = [json.loads(line) for line in one.samples["gen"].read_text().splitlines()]
        for doc, line in zip(page.documents, lines, strict=True):
            assert doc["id"] == line["doc_id"]
            assert doc["gold"] == line["target"]
            assert "".join(doc["texts"][doc["answers"][number]]) == line["resps"][0][0]
            facts = [line[name] for name in ("layers_used", "agreement", "em")]
            assert doc["facts"][number] == pytest.approx(facts, abs=1e-4)
    i, j = page.documents[0]["answers"][1:]
    (first, second) = page.documents[0]["pairs"][f"{min(i, j)},{max(i, j)}"]
    assert first == second == [[1, 2]]


def test_an_option_answers_where_nothing_was_generated(tmp_path: Path) -> None:
    plans = [Plan(tasks={"mc": SCORING}, seed=seed, threshold=0.4 + 0.1 * seed) for seed in (1, 2)]
    made = [write_run(tmp_path / str(plan.seed), plan) for plan in plans]
    for one in made:
        lines = [json.loads(line) for line in one.samples["mc"].read_text().splitlines()]
        for line in lines:
            for number, request in enumerate(line["arguments"].values()):
                request["arg_1"] = f" option {number}"
        one.samples["mc"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(tmp_path)
    assert page is not None
    assert page.scored
    for number, row in enumerate(page.rows):
        (one,) = (one for one in made if one.results == row.run.path)
        lines = [json.loads(line) for line in one.samples["mc"].read_text().splitlines()]
        for doc, line in zip(page.documents, lines, strict=True):
            scores = [float(response[0][0]) for response in line["resps"]]
            best = scores.index(max(scores))
            assert doc["texts"][doc["answers"][number]] == words_of(f" option {best}")


def test_a_single_run_or_missing_samples_make_no_page(tmp_path: Path) -> None:
    made = write_run(tmp_path / "a", Plan(tasks=ONE))
    write_plain(tmp_path / "plain", Plan(tasks=ONE))
    assert page_of(tmp_path / "a") is None
    other = write_run(tmp_path / "b", Plan(tasks=ONE, threshold=0.7))
    assert page_of(tmp_path) is not None
    other.samples["gen"].unlink()
    assert page_of(tmp_path) is None
    assert made.samples["gen"].is_file()


def test_what_does_not_fit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(4):
        plan = Plan(tasks=ONE, seed=seed, threshold=0.3 + 0.1 * seed, text=f"a b c d e {seed}")
        write_run(tmp_path / str(seed), plan)
    monkeypatch.setattr(module, "MOST_RUNS", 3)
    monkeypatch.setattr(module, "MOST_MATCHES", 6)
    monkeypatch.setattr(module, "MOST_WORDS", 4)
    page = page_of(tmp_path)
    assert page is not None
    assert (len(page.runs), page.further_runs) == (3, 1)
    assert (len(page.documents), page.further_documents) == (2, 3)
    for doc in page.documents:
        assert doc["cut"] == [2] * len(doc["texts"])
