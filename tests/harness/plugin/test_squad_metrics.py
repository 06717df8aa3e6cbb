"""Scores against the evaluation script of SQuAD 2.0, written down here a second time.

Its definitions: lower the text, drop punctuation, drop the articles a, an and the as whole words,
squeeze white space. Exact match compares the results. F1 counts shared words with their
multiplicity; if either side has no words, it is 1 where both have none and else 0. A question's
score is the best over its gold answers that normalise to something, or over the empty answer.
"""

from __future__ import annotations

import re
import string
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.harness.plugin import squad_metrics

ALPHABET = st.sampled_from([*"aAbtThe nN\t\n.,'!-_é½İßthe", " the ", " an ", " a ", "An", "THE"])
ANSWERS = st.lists(ALPHABET, max_size=12).map("".join) | st.text(max_size=20)


def words(text: str) -> list[str]:
    """Step by step, in the order of the script."""
    text = text.lower()
    for mark in string.punctuation:
        text = text.replace(mark, "")
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return text.split()


def f1(gold: str, predicted: str) -> float:
    left, right = words(gold), words(predicted)
    if not left or not right:
        return 1.0 if left == right else 0.0
    rest, shared = list(left), 0
    for word in right:
        if word in rest:
            rest.remove(word)
            shared += 1
    return 2 * shared / (len(left) + len(right))


@given(ANSWERS, ANSWERS)
def test_exact_match_and_f1_are_squads(gold: str, predicted: str) -> None:
    assert squad_metrics.get_tokens(gold) == words(gold)
    assert squad_metrics.compute_exact(gold, predicted) == (words(gold) == words(predicted))
    assert squad_metrics.compute_f1(gold, predicted) == pytest.approx(f1(gold, predicted))


@given(ANSWERS, ANSWERS)
def test_f1_is_symmetric_bounded_and_one_for_equals(gold: str, predicted: str) -> None:
    score = squad_metrics.compute_f1(gold, predicted)
    assert score == pytest.approx(squad_metrics.compute_f1(predicted, gold))
    assert 0 <= score <= 1
    assert squad_metrics.compute_f1(gold, gold) == 1
    if squad_metrics.compute_exact(gold, predicted):
        assert score == 1


def test_the_alphabet_reaches_what_matters() -> None:
    """The properties above would hold of much simpler rules if nothing drew these cases."""
    assert squad_metrics.normalize_answer("The  Cat, an\tant. THEN a!") == "cat ant then"
    assert squad_metrics.compute_f1("the cat sat", "a cat") == pytest.approx(2 / 3)
    assert squad_metrics.compute_f1("the", "a.") == 1
    assert squad_metrics.compute_f1("", "cat") == 0
    assert squad_metrics.get_tokens(None) == []


@given(
    st.lists(st.lists(ANSWERS, max_size=3), max_size=3), st.lists(ANSWERS, min_size=2, max_size=2)
)
def test_a_questions_score_is_its_best_gold_answers(
    golds: list[list[str]], predictions: list[str]
) -> None:
    examples = [
        SimpleNamespace(qas_id=str(number), answers=[{"text": text} for text in texts])
        for number, texts in enumerate(golds)
    ]
    answers = {str(number): text for number, text in enumerate(predictions)}
    exact, scores = squad_metrics.get_raw_scores(examples, answers)
    assert set(exact) == set(scores) == {e.qas_id for e in examples} & set(answers)
    for key in exact:
        counted = [text for text in golds[int(key)] if words(text)] or [""]
        assert exact[key] == max(words(text) == words(answers[key]) for text in counted)
        assert scores[key] == pytest.approx(max(f1(text, answers[key]) for text in counted))
