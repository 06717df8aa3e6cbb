"""Training text in the prompt formats of the evaluation tasks, packed into rows of tokens.

Every epoch formats the same records anew, from the seed: which questions share a document, and in
which of lm-eval's formats, differs each time.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from training.tiny.tokenizer import BOS, EOS

HELD_OUT_PERCENT = 2
STORY_ROW, QA_ROW, LONG_ROW = 1024, 512, 2048
STORY_REPEATS = 2  # how often an epoch shows a conversation; everything else once
_LONG_QA_SHARE = 0.1
_OPEN_QA_FILES = ("triviaqa_train", "other_openqa_train", "jeopardy_train")
_OPEN_QA_EVAL = (
    "triviaqa_validation",
    "truthfulqa_gen_validation",
    "truthfulqa_mc_validation",
)


@dataclass(frozen=True)
class Story:
    """A passage and the conversation about it."""

    text: str
    turns: tuple[tuple[str, str], ...]


@dataclass
class Corpus:
    """Records of one split."""

    stories: list[Story] = field(default_factory=list)
    passages: list[Story] = field(default_factory=list)
    questions: list[tuple[str, str]] = field(default_factory=list)


def _records(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def normalised(text: str) -> str:
    """Letters and digits only, lower case: the form in which overlap is looked for."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _is_held_out(key: str) -> bool:
    return int(hashlib.sha256(normalised(key).encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def forbidden_texts(eval_dir: Path) -> set[str]:
    """The questions and stories of the evaluation records, normalised."""
    forbidden = {
        normalised(record["question"])
        for name in _OPEN_QA_EVAL
        for record in _records(eval_dir / f"{name}.jsonl")
    }
    stories = _records(eval_dir / "coqa_validation.jsonl")
    return forbidden | {normalised(record["story"]) for record in stories}


def load_corpus(data_dir: Path, eval_dir: Path) -> tuple[Corpus, Corpus]:
    """Reads every training record, less those that an evaluation file also has.

    Args:
        data_dir: Folder with the `*_train.jsonl` files.
        eval_dir: Folder with the evaluation records, read only to keep them out.

    Returns:
        The training split and the held-out split, divided by passage or question.
    """
    forbidden = forbidden_texts(eval_dir)
    train, held_out = Corpus(), Corpus()

    def split(key: str) -> Corpus:
        return held_out if _is_held_out(key) else train

    for record in _records(data_dir / "coqa_train.jsonl"):
        turns = tuple(zip(record["questions"], record["answers"], strict=True))
        split(record["story"]).stories.append(Story(record["story"], turns))
    for record in _records(data_dir / "boolq_train.jsonl"):
        question = record["question"].strip()
        turn = (question[:1].upper() + question[1:].rstrip("?") + "?", str(record["answer"]))
        split(record["story"]).passages.append(Story(record["story"], (turn,)))
    for name in _OPEN_QA_FILES:
        for record in _records(data_dir / f"{name}.jsonl"):
            split(record["question"]).questions.append((record["question"], record["answer"]))

    for corpus in (train, held_out):
        corpus.questions = [qa for qa in corpus.questions if normalised(qa[0]) not in forbidden]
        for kind in (corpus.stories, corpus.passages):
            kind[:] = [story for story in kind if normalised(story.text) not in forbidden]
    seen = {normalised(question) for question, _ in train.questions}
    seen |= {normalised(story.text) for story in train.stories + train.passages}
    assert not seen & forbidden, "evaluation records in the training text"
    return train, held_out


def coqa_text(story: Story) -> str:
    """The stock `coqa` prompt; the next turn's "Q:" follows every answer, the last too."""
    turns = "".join(f"Q: {question}\n\nA: {answer}\n\n" for question, answer in story.turns)
    return f"{story.text}\n\n{turns}Q:"


def triviaqa_text(pairs: Sequence[tuple[str, str]]) -> str:
    """The stock `triviaqa` prompt, few-shot; it adds a question mark to the question's own."""
    shots = "".join(f"Question: {question}?\nAnswer: {answer}\n\n" for question, answer in pairs)
    return f"{shots}Question:"


def truthfulqa_text(pairs: Sequence[tuple[str, str]]) -> str:
    """The question-and-answer style of the stock `truthfulqa` prompts."""
    shots = (f"Q: {question.rstrip('?')}?\nA: {answer}\n\n" for question, answer in pairs)
    return "".join(shots) + "Q:"


def story_documents(corpus: Corpus, rng: random.Random, repeats: int) -> list[str]:
    """Conversations and yes/no passages as `coqa` prompts, shuffled."""
    documents = [coqa_text(story) for story in corpus.stories * repeats + corpus.passages]
    rng.shuffle(documents)
    return documents


def qa_documents(corpus: Corpus, rng: random.Random) -> list[str]:
    """Every question once, in documents of 1 to 12 questions in either format."""
    pairs = [(_capitalised(question, rng), answer) for question, answer in corpus.questions]
    rng.shuffle(pairs)
    documents = []
    while pairs:
        shots, pairs = pairs[: (size := rng.randint(1, 12))], pairs[size:]
        documents.append(rng.choice((triviaqa_text, truthfulqa_text))(shots))
    return documents


def _capitalised(question: str, rng: random.Random) -> str:
    return question[:1].upper() + question[1:] if rng.random() < 0.8 else question


Encode = Callable[[list[str]], list[list[int]]]


def epoch_rows(corpus: Corpus, encode: Encode, seed: int, epoch: int) -> list[np.ndarray]:
    """One pass over the corpus as rows of 512, 1,024 and 2,048 tokens (plus one to predict).

    A conversation is never cut, so that its answers always follow the whole story; the rest of its
    row is filled with questions.

    Args:
        corpus: What to format.
        encode: Documents to token ids, `<s>` and `</s>` included.
        seed: Run's seed.
        epoch: Which pass; with `seed` it determines everything random here.

    Returns:
        Rows in random order.
    """
    rng = random.Random(f"{seed}:{epoch}")
    stories = encode(story_documents(corpus, rng, STORY_REPEATS))
    filler = iter(encode(qa_documents(corpus, rng)))
    rows: dict[int, list[list[int]]] = {STORY_ROW: [], LONG_ROW: []}
    for document in stories:
        if len(document) > LONG_ROW + 1:
            continue
        length = STORY_ROW if len(document) <= STORY_ROW + 1 else LONG_ROW
        open_rows = rows[length][-32:]
        room = [row for row in open_rows if len(row) + len(document) <= length + 1]
        if room:
            room[0].extend(document)
        else:
            rows[length].append(list(document))
    full: list[np.ndarray] = []
    for length, started in rows.items():
        for row in started:
            full += _filled(row, length, filler)
    while True:
        length = LONG_ROW if rng.random() < _LONG_QA_SHARE * QA_ROW / LONG_ROW else QA_ROW
        done = _filled([], length, filler)
        if not done:
            break
        full += done
    rng.shuffle(full)
    return full


def _filled(row: list[int], length: int, filler: Iterator[list[int]]) -> list[np.ndarray]:
    while len(row) < length + 1:
        document = next(filler, None)
        if document is None:
            return []
        row = row + document
    return [np.asarray(row[: length + 1], dtype=np.int64)]


def batches(rows: list[np.ndarray], tokens_per_batch: int, rng: random.Random) -> list[np.ndarray]:
    """Groups rows of equal length into batches of about equal size, in random order."""
    grouped: dict[int, list[np.ndarray]] = {}
    for row in rows:
        grouped.setdefault(len(row), []).append(row)
    made = []
    for length, same in grouped.items():
        size = max(1, tokens_per_batch // (length - 1))
        made += [np.stack(same[i : i + size]) for i in range(0, len(same) - size + 1, size)]
    rng.shuffle(made)
    return made


def answer_tokens(row: Sequence[int], pieces: Sequence[str]) -> list[bool]:
    """Which tokens of a row belong to an answer, its end and the next turn's "Q:" included.

    Args:
        row: Token ids.
        pieces: The text of every token of the vocabulary.
    """
    line, inside, ended, marks = "", False, False, []
    for token in row:
        piece = pieces[token]
        if "\n" in piece:
            marks.append(inside)
            line, inside, ended = "", False, inside
            continue
        line += piece
        ended = ended and "Q:".startswith(line)
        marks.append(inside or ended)
        ended = ended and line != "Q:"
        inside = (inside or line in ("A:", "Answer:")) and piece not in (BOS, EOS)
    return marks
