"""The training text has the evaluation's formats and none of its records."""

import json
import random
from pathlib import Path

import pytest

from training.tiny import data
from training.tiny.data import Corpus, Story

QUESTION = ("Which sea is saltiest?", "The Dead Sea")


def test_coqa_text_is_the_stock_prompt() -> None:
    story = Story("A cat sat.", (("Who?", "a cat"), ("Did it stand?", "no")))
    prompt = "A cat sat.\n\nQ: Who?\n\nA: a cat\n\nQ: Did it stand?\n\nA:"
    assert data.coqa_text(story) == prompt + " no\n\nQ:"


def test_triviaqa_text_keeps_the_second_question_mark() -> None:
    expected = "Question: Which sea is saltiest??\nAnswer: The Dead Sea\n\nQuestion:"
    assert data.triviaqa_text([QUESTION]) == expected


def test_truthfulqa_text_has_one_question_mark() -> None:
    assert data.truthfulqa_text([QUESTION]) == "Q: Which sea is saltiest?\nA: The Dead Sea\n\nQ:"


def _write(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Training and evaluation folders that share one question and one story."""
    train, evaluation = tmp_path / "train", tmp_path / "eval"
    talk = {"questions": ["Who?"], "answers": ["me"]}
    stories = [{"story": f"Story {n}.", **talk} for n in range(200)]
    _write(train / "coqa_train.jsonl", [*stories, {"story": "Leaked, story!", **talk}])
    passage = {"story": "Passage.", "question": "is it?", "answer": "yes"}
    _write(train / "boolq_train.jsonl", [passage])
    _write(train / "triviaqa_train.jsonl", [{"question": "Leaked question ?", "answer": "no"}])
    _write(train / "other_openqa_train.jsonl", [{"question": "Fine?", "answer": "yes"}])
    _write(train / "jeopardy_train.jsonl", [])
    _write(evaluation / "coqa_validation.jsonl", [{"story": "Leaked story"}])
    _write(evaluation / "triviaqa_validation.jsonl", [{"question": "leaked Question?"}])
    for name in ("truthfulqa_gen_validation", "truthfulqa_mc_validation"):
        _write(evaluation / f"{name}.jsonl", [{"question": "Other?"}])
    return train, evaluation


def test_evaluation_records_are_kept_out(folders: tuple[Path, Path]) -> None:
    train, held_out = data.load_corpus(*folders)
    questions = {question for question, _ in train.questions + held_out.questions}
    assert questions == {"Fine?"}
    texts = {story.text for story in train.stories + held_out.stories}
    assert len(texts) == 200
    assert "Leaked, story!" not in texts
    assert {s.text for s in train.stories}.isdisjoint(s.text for s in held_out.stories)
    assert held_out.stories


def _bytes(documents: list[str]) -> list[list[int]]:
    return [list(document.encode()) for document in documents]


def test_no_conversation_is_cut_and_epochs_differ() -> None:
    rng = random.Random(1)
    turns = (("Q1?", "one"), ("Q2?", "two"))
    stories = [Story(f"<{n}>" + "x" * rng.randint(100, 1800), turns) for n in range(50)]
    questions = [(f"question {n}?", str(n)) for n in range(2000)]
    corpus = Corpus(stories=stories, questions=questions)
    rows = data.epoch_rows(corpus, _bytes, seed=0, epoch=0)
    assert {len(row) for row in rows} <= {513, 1025, 2049}
    text = [bytes(row.tolist()).decode() for row in rows]
    whole = [sum(data.coqa_text(story) in row for row in text) for story in stories]
    assert sum(whole) >= 0.9 * len(stories)
    assert all(row.count("<") == row.count("\n\nA: two\n\nQ:") for row in text)
    again = data.epoch_rows(corpus, _bytes, seed=0, epoch=0)
    assert all((a == b).all() for a, b in zip(rows, again, strict=True))
    other = data.epoch_rows(corpus, _bytes, seed=0, epoch=1)
    assert [row.tolist() for row in rows] != [row.tolist() for row in other]


def test_answer_tokens_end_with_the_next_question() -> None:
    pieces = ["<s>", "</s>", "Q", ":", "A", " who", "\n\n", " me", "Answer", "Question", "\n"]

    def marked(*tokens: str) -> list[str]:
        marks = data.answer_tokens([pieces.index(token) for token in tokens], pieces)
        return [token for token, mark in zip(tokens, marks, strict=True) if mark]

    turn = ["Q", ":", " who", "\n\n", "A", ":", " me", " who", "\n\n"]
    assert marked(*turn, *turn) == [*[" me", " who", "\n\n", "Q", ":"], " me", " who", "\n\n"]
    trivia = ["Question", ":", " who", "\n", "Answer", ":", " me", "\n\n", "Question", ":"]
    assert marked(*trivia, "</s>", "<s>", " me") == [" me", "\n\n"]
