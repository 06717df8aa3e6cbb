r"""The training records as the tasks prompt them: one JSON line with a prompt and an answer each.

    python -m training.heads.prompts --data_dir ../shared/data/train \
        --output_path ../runs/prompts.jsonl

Records of the evaluation files are left out, as in the training of the embedded models. Each line
names its group: records of two groups share no passage and no question, the examples before a
question included, so that what is held out by group was never trained on.
"""

import argparse
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dynamax_lm.common.outputs import write_text
from training.tiny.data import Corpus, Story, load_corpus, normalised

_TURNS = 4  # of a conversation, so that long ones do not dominate
_GROUPS = 250  # examples come from a question's own group, which must have enough of them


def groups(corpus: Corpus) -> dict[str, str]:
    """The group of every passage and every question that stands alone, by its normalised text.

    A question about a passage of its own puts both into one group. Questions of a conversation
    ("Why?") are not compared: they depend on their story.
    """
    tied = [[normalised(story.text)] for story in corpus.stories]
    tied += [
        [normalised(story.text), *(normalised(question) for question, _ in story.turns)]
        for story in corpus.passages
    ]
    tied += [[normalised(question)] for question, _ in corpus.questions]
    texts = sorted({text for one in tied for text in one})
    numbers = {text: number for number, text in enumerate(texts)}
    pairs = [(numbers[one[0]], numbers[text]) for one in tied for text in one]
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(len(pairs)), (ends[0], ends[1])), shape=(len(texts),) * 2)
    _, parts = connected_components(edges, directed=False)
    first = {part: text for text, part in zip(reversed(texts), reversed(parts), strict=True)}
    return {text: _named(first[part]) for text, part in zip(texts, parts, strict=True)}


def _named(text: str) -> str:
    return f"group-{int(hashlib.sha256(text.encode()).hexdigest(), 16) % _GROUPS:03}"


def story_prompts(story: Story, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Turns of a conversation as stock `coqa` prompts them, earlier turns before."""
    chosen = set(rng.sample(range(len(story.turns)), min(_TURNS, len(story.turns))))
    text = f"{story.text}\n\n"
    for number, (question, answer) in enumerate(story.turns):
        text += f"Q: {question}\n\nA:"
        if number in chosen:
            yield text, f" {answer}\n\nQ:"
        text += f" {answer}\n\n"


def question_prompt(
    question: str, answer: str, shots: Sequence[tuple[str, str]], rng: random.Random
) -> tuple[str, str]:
    """A question as `triviaqa` or `truthfulqa` prompts it, after some examples."""
    asked = question[:1].upper() + question[1:]
    if rng.random() < 0.75:
        before = "".join(f"Question: {q}?\nAnswer: {a}\n\n" for q, a in shots)
        return f"{before}Question: {asked}?\nAnswer:", f" {answer}\n\n"
    before = "".join(f"Q: {q.rstrip('?')}?\nA: {a}\n\n" for q, a in shots)
    return f"{before}Q: {asked.rstrip('?')}?\nA:", f" {answer}\n\n"


def records(corpus: Corpus, seed: int, most: int) -> list[dict[str, str]]:
    """At most `most` records, conversations first, then questions up to that number, shuffled.

    Every fourth question follows examples of its own group.
    """
    rng = random.Random(seed)
    group = groups(corpus)
    made = [
        {"prompt": prompt, "answer": answer, "group": group[normalised(story.text)]}
        for story in corpus.stories + corpus.passages
        for prompt, answer in story_prompts(story, rng)
    ]
    rng.shuffle(made)
    made = made[: most // 3]
    questions = list(corpus.questions)
    rng.shuffle(questions)
    beside: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in questions:
        beside[group[normalised(pair[0])]].append(pair)
    for number, (question, answer) in enumerate(questions[: most - len(made)]):
        own = group[normalised(question)]
        others = [pair for pair in beside[own] if normalised(pair[0]) != normalised(question)]
        count = min(rng.randint(1, 5), len(others)) if number % 4 == 0 else 0
        prompt, answered = question_prompt(question, answer, rng.sample(others, count), rng)
        made.append({"prompt": prompt, "answer": answered, "group": own})
    rng.shuffle(made)
    return made


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--eval_dir", type=Path, help="records to keep out [data_dir/../eval]")
    parser.add_argument("--output_path", type=Path, required=True)
    parser.add_argument("--most", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    corpus, _ = load_corpus(args.data_dir, args.eval_dir or args.data_dir.parent / "eval")
    made = records(corpus, args.seed, args.most)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in made)
    write_text(args.output_path, "".join(lines))
    print(f"{len(made)} records in {args.output_path}")


if __name__ == "__main__":
    main()
