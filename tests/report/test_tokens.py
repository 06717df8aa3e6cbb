"""What a token page embeds: every token of the trace, in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import GENERATION, Plan, write_run

from dynamax_lm.common.tracefile import read_trace
from dynamax_lm.report.load import load
from dynamax_lm.report.tokens import token_page
from dynamax_lm.report.tokentext import TokenTexts


def test_every_token_is_there_with_its_depth_and_confidence(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(documents=4))
    library = load([tmp_path])
    for task in ("gen", "mc"):
        page = token_page(library, library.runs[0], task, TokenTexts())
        assert page is not None
        lines = list(read_trace(made.traces / f"trace_{task}.jsonl"))
        shown = [t for doc in page.documents for answer in doc["answers"] for t in answer["tokens"]]
        assert [t[:2] for t in shown] == [[f"⟨{x.token}⟩", x.layers_used] for x in lines]
        assert [t[3:] for t in shown] == [
            [] if x.full_depth == x.emitted else [f"⟨{x.full_depth}⟩", f"⟨{x.emitted}⟩"]
            for x in lines
        ]
        assert page.depths == [3, 5, 8]
        assert page.scored == (task == "mc")
        assert [doc["id"] for doc in page.documents] == [0, 1, 2, 3]
        assert all(doc["prompt"] == f"prompt {doc['id']} 0" for doc in page.documents)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("['a quiet harbour']", "a quiet harbour"),
        ("['one', 'two']", "one | two"),
        ("[1, 2]", "[1, 2]"),
        ("['unfinished", "['unfinished"),
        ("[" * 9_000, "[" * 9_000),
        ("plain", "plain"),
    ],
)
def test_right_answers_are_shown_without_brackets(tmp_path: Path, target: str, shown: str) -> None:
    made = write_run(tmp_path, Plan(documents=1, tasks={"gen": GENERATION}))
    path = made.samples["gen"]
    line = json.loads(path.read_text()) | {"target": target}
    path.write_text(json.dumps(line))
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "gen", TokenTexts())
    assert page is not None
    assert page.documents[0]["gold"] == shown


def test_options_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path)
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "mc", TokenTexts())
    assert page is not None
    labels = [answer["label"] for answer in page.documents[0]["answers"]]
    assert labels == ["option 1", "option 2", "option 3"]


def test_without_a_trace_there_is_no_page(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    (made.traces / "trace_gen.jsonl").unlink()
    library = load([tmp_path])
    assert token_page(library, library.runs[0], "gen", TokenTexts()) is None


def test_without_samples_the_tokens_are_still_shown(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    made.samples["gen"].unlink()
    library = load([tmp_path])
    page = token_page(library, library.runs[0], "gen", TokenTexts())
    assert page is not None
    assert page.documents[0]["prompt"] == ""
    assert page.documents[0]["answers"][0]["tokens"]
