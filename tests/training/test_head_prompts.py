"""Groups of training prompts: what two groups must not share."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from training.heads.prompts import groups, records
from training.tiny.data import Corpus, Story, normalised

NAMES = st.integers(0, 30)
CORPORA = st.builds(
    lambda stories, passages, questions: Corpus(
        [Story(f"story {one}", (("Why?", "so"), ("Who?", "she"))) for one in stories],
        [Story(f"passage {one}", ((f"Question {q}?", "yes"),)) for one, q in passages],
        [(f"question {one}", f"answer {one}") for one in questions],
    ),
    st.lists(NAMES, max_size=8),
    st.lists(st.tuples(NAMES, NAMES), max_size=8),
    st.lists(NAMES, max_size=40),
)


@given(corpus=CORPORA, seed=st.integers(0, 3))
def test_two_groups_share_no_passage_and_no_question(corpus, seed):
    owner = {}
    for record in records(corpus, seed, 200):
        prompt = record["prompt"]
        asked = re.findall(r"question \d+", prompt, re.IGNORECASE)
        passages = re.findall(r"(?:story|passage) \d+", prompt)
        assert asked or passages
        for text in (*asked, *passages):
            assert owner.setdefault(text.lower(), record["group"]) == record["group"]


def test_questions_of_one_group_serve_as_its_examples():
    corpus = Corpus(questions=[(f"question {one}", f"answer {one}") for one in range(3000)])
    made = records(corpus, 0, 3000)
    shown = [len(re.findall(r"question \d+", one["prompt"], re.IGNORECASE)) for one in made]
    assert sum(count > 1 for count in shown) > 600
    assert max(shown) == 6
    assert len({one["group"] for one in made}) > 200


def test_groups_do_not_depend_on_the_order_of_records():
    questions = [(f"question {one}", "x") for one in range(50)]
    passages = [Story(f"passage {one}", ((f"Question {one}?", "yes"),)) for one in range(50)]
    first = groups(Corpus(passages=passages, questions=questions))
    random.Random(0).shuffle(questions)
    random.Random(1).shuffle(passages)
    assert groups(Corpus(passages=passages, questions=questions)) == first
    assert all(first[f"passage {one}"] == first[normalised(f"Question {one}")] for one in range(50))
