r"""The training records as the tasks prompt them: one JSON line with a prompt and an answer each.

    python -m training.heads.prompts --data_dir ../shared/data/train \
        --output_path ../runs/prompts.jsonl

Records of the evaluation files are left out, as in the training of the embedded models.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

from training.tiny.data import Corpus, Story, load_corpus

_TURNS = 4  # asked per conversation, so that long ones do not crowd out the rest


def story_prompts(story: Story, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Turns of a conversation as stock `coqa` prompts them, earlier turns before."""
    chosen = set(rng.sample(range(len(story.turns)), min(_TURNS, len(story.turns))))
    text = f"{story.text}\n\n"
    for number, (question, answer) in enumerate(story.turns):
        text += f"Q: {question}\n\nA:"
        if number in chosen:
            yield text, f" {answer}\n\nQ:"
        text += f" {answer}\n\n"


def question_prompts(
    questions: list[tuple[str, str]], rng: random.Random
) -> Iterator[tuple[str, str]]:
    """Questions as `triviaqa` or `truthfulqa` prompt them; every fourth after some examples."""
    for number, (question, answer) in enumerate(questions):
        asked = question[:1].upper() + question[1:]
        shots = rng.sample(questions, rng.randint(1, 5)) if number % 4 == 0 else []
        if rng.random() < 0.75:
            before = "".join(f"Question: {q}?\nAnswer: {a}\n\n" for q, a in shots)
            yield f"{before}Question: {asked}?\nAnswer:", f" {answer}\n\n"
        else:
            before = "".join(f"Q: {q.rstrip('?')}?\nA: {a}\n\n" for q, a in shots)
            yield f"{before}Q: {asked.rstrip('?')}?\nA:", f" {answer}\n\n"


def records(corpus: Corpus, seed: int, most: int) -> list[dict[str, str]]:
    """At most `most` records, conversations first and questions as the room allows, shuffled."""
    rng = random.Random(seed)
    pairs = [
        pair for story in corpus.stories + corpus.passages for pair in story_prompts(story, rng)
    ]
    rng.shuffle(pairs)
    questions = list(corpus.questions)
    rng.shuffle(questions)
    pairs = pairs[: most // 3]
    pairs += question_prompts(questions[: most - len(pairs)], rng)
    rng.shuffle(pairs)
    return [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]


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
    args.output_path.parent.mkdir(parents=True, exist_ok=True)
    spare = args.output_path.with_suffix(".new")
    with spare.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in made)
    os.replace(spare, args.output_path)
    print(f"{len(made)} records in {args.output_path}")


if __name__ == "__main__":
    main()
