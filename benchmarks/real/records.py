"""Training records in the layout of the tasks, whose templates then make the prompts.

Some records become prompts and the others plain text. No question and no story of the evaluation
records is among them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import dynamax_lm
from benchmarks.criteria.prompts import TASKS, Prompt, test_prompts
from dynamax_lm.common.outputs import write_text
from training.tiny.data import Story, coqa_text, load_corpus, normalised

_TURNS = 4
"""Most turns of a conversation before its last question."""


class Mix(NamedTuple):
    """How much of each kind one part of the collection has.

    Attributes:
        triviaqa: few-shot questions with the model's own answer.
        truthfulqa: questions after TruthfulQA's examples, with its own, longer, answer.
        coqa: stories with turns, with its own answer.
        text_tokens: of other stories and passages, read as text with the data's answers.
    """

    triviaqa: int = 24
    truthfulqa: int = 28
    coqa: int = 3
    text_tokens: int = 4096


class Part(NamedTuple):
    """One part of the collection: prompts to answer, and texts to read."""

    prompts: list[Prompt]
    texts: list[str]


def parts(data: Path, evaluation: Path, scratch: Path, count: int, mix: Mix) -> list[Part]:
    """The training prompts and texts in ``count`` parts, no record in two of them.

    Args:
        data: folder of the training records.
        evaluation: folder of the evaluation records, read to keep them out.
        scratch: where the records of the tasks are written.
        count: of parts.
        mix: of each part.
    """
    corpus, _ = load_corpus(data, evaluation)
    rng = random.Random(0)
    shown = _examples()
    questions = [pair for pair in corpus.questions if normalised(pair[0]) not in shown]
    stories, passages = corpus.stories, corpus.passages
    for records in (questions, stories, passages):
        rng.shuffle(records)  # type: ignore[arg-type]
    middle = count * mix.triviaqa
    asked = questions[:middle], questions[middle : middle + count * mix.truthfulqa]
    _write(scratch, "triviaqa", [_trivia(*one) for one in asked[0]])
    _write(scratch, "truthfulqa", [_truthful(question) for question, _ in asked[1]])
    _write(scratch, "coqa", [_conversation(one, rng) for one in stories[: count * mix.coqa]])
    most = max(mix[:3]) * count
    by_task: dict[str, list[Prompt]] = {task: [] for task in TASKS}
    for prompt in test_prompts(scratch, scratch / "tasks", most, None):
        by_task[prompt.task].append(prompt)
    told = stories[count * mix.coqa :]
    pairs = zip(told, passages, strict=False)  # there are more passages than stories
    mixed = [one for pair in pairs for one in pair] + passages[len(told) :]
    rest = [coqa_text(one) for one in mixed]
    return [
        Part(
            [one for task in TASKS for one in by_task[task][number::count]],
            rest[number::count],
        )
        for number in range(count)
    ]


def _examples() -> str:
    """The examples before every TriviaQA question, normalised; they are not used as questions."""
    task = Path(dynamax_lm.__file__).parent / "tasks" / "triviaqa" / "dynamax_triviaqa_sample.yaml"
    return normalised(task.read_text(encoding="utf-8"))


def _write(folder: Path, task: str, records: Sequence[dict[str, object]]) -> None:
    write_text(folder / TASKS[task][0], "".join(json.dumps(one) + "\n" for one in records))


def _asked(question: str) -> str:
    return question[:1].upper() + question[1:].rstrip("?") + "?"


def _trivia(question: str, answer: str) -> dict[str, object]:
    return {"question": _asked(question), "answer": {"value": answer, "aliases": [answer]}}


def _truthful(question: str) -> dict[str, object]:
    return {
        "question": _asked(question),
        "best_answer": "",
        "correct_answers": ["none"],
        "incorrect_answers": ["none"],
    }


def _conversation(story: Story, rng: random.Random) -> dict[str, object]:
    turns = story.turns[: rng.randint(1, _TURNS + 1)]
    asked, answered = ([pair[number] for pair in turns] for number in (0, 1))
    return {
        "story": story.text,
        "questions": {"input_text": asked},
        "answers": {"input_text": answered},
    }
