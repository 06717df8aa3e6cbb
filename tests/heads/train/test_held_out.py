from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.held_out import group_of, part_of


def parts(documents, share):
    return [part_of(one, share) for one in documents]


def test_the_held_out_split_has_about_its_share_and_never_changes():
    documents = [Document("", f"document {number}") for number in range(4000)]
    few, more = parts(documents, 0.1), parts(documents, 0.2)
    assert parts(documents, 0.1) == few
    for part in ("calibrate", "report"):
        assert 140 < few.count(part) < 260
    assert all(b != "train" for a, b in zip(few, more, strict=True) if a != "train")
    assert set(parts(documents, 0.0)) == {"train"}
    assert set(parts(documents, 1.0)) == {"calibrate", "report"}


WORDS = st.text("abcdefg ", min_size=1, max_size=30).filter(str.strip)


@given(
    story=st.text("abcdefg ", min_size=250, max_size=400).filter(lambda one: len(one.split()) > 0),
    turns=st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=8),
    share=st.floats(0, 1),
)
def test_questions_about_one_passage_lie_on_one_side(story, turns, share):
    story = f"x{story}y" + "z" * 250
    prompt, documents = f"{story}\n\n", []
    for question, answer in turns:
        prompt += f"Q: {question}\n\nA:"
        documents.append(Document(prompt, f" {answer}\n\nQ:"))
        prompt += f" {answer}\n\n"
    assert len(set(parts(documents, share))) == 1
    assert {group_of(one) for one in documents} == {" ".join(story.lower().split())}


@given(
    question=WORDS,
    shots=st.lists(st.tuples(WORDS, WORDS), max_size=4),
    answers=st.lists(WORDS, min_size=2, max_size=4),
    share=st.floats(0, 1),
)
def test_a_question_lies_on_one_side_whatever_stands_before_it(question, shots, answers, share):
    before = "".join(f"Question: {q}?\nAnswer: {a}\n\n" for q, a in shots)
    asked = f"Question: {question}?\nAnswer:"
    documents = [Document(asked, f" {one}") for one in answers]
    documents += [Document(before + asked, f" {one}") for one in answers]
    assert len(set(parts(documents, share))) == 1
