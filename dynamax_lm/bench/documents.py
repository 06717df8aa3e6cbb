"""Benchmarks of many documents: against ``hf``, full depth, and the harness.

Uneven answers, shared few-shot examples, multiple choice, the package's own samples with exits, and
the share of a run that is not the model's: on the embedded model, and the samples with exits on
one of the shape that is measured too.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dynamax_lm.bench.evaluation import evaluate
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.runs import embedded, fits_tokenizer, saved
from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import Contestant, alternate, seconds

BATCH = 8
_MOST = 64
"""Tokens of the longest answer."""
_FEW = 8
"""Documents of a sample for a model of the shape that is measured."""
_SAMPLES = ("dynamax_coqa_sample", "dynamax_triviaqa_sample")
_CHOICES = ("dynamax_truthfulqa_mc1_sample", "dynamax_truthfulqa_mc2_sample")


def documents(subject: Subject) -> Iterator[Row]:
    """All of them, float32, batch size 8; samples with exits also at the shape that is measured."""
    from lm_eval.models.huggingface import HFLM

    from dynamax_lm.harness.plugin.task_folder import own_tasks
    from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral

    shared = {"pretrained": embedded(subject), "batch_size": BATCH, "dtype": "float32"}
    shared["device"] = str(subject.stack.device)
    make = DynamaxMistral if subject.attention else DynamaxMamba
    manager = own_tasks()
    load = partial(make, **shared)
    full = load(mode="full")
    yield from _against_hf(subject, {"hf": HFLM(**shared), "ours": full}, manager)
    yield from _against_full_depth(subject, _name(subject), load, full, manager, _limit(subject))
    if fits_tokenizer(subject):
        with saved(subject) as folder:
            own = partial(load, pretrained=folder)
            wide = own(mode="full")
            yield from _against_full_depth(subject, subject.name, own, wide, manager, _FEW)
    timed = type("Timed", (_Timed, make), {})(**shared, mode="full")
    yield _outside(subject, timed)


def _against_hf(subject: Subject, models: Mapping[str, Any], manager: Any) -> Iterator[Row]:
    count = 16 if subject.quick else 200
    questions = questions_of(manager)
    works = {
        f"{count} documents, answers of 1 to {_MOST} tokens, mode=full": (
            uneven(questions, count),
            2.5,
        ),
        f"{count} documents after the same 5 shots, mode=full": (shots(questions, count), 3.0),
    }
    for what, (requests, goal) in works.items():
        runs: dict[str, Contestant] = {
            name: partial(lm.generate_until, requests, True) for name, lm in models.items()
        }
        yield _row(subject, what, runs, "lm-eval hf / ours", ("hf", "ours"), goal)
    limit = _limit(subject)
    for task in _CHOICES:
        yield _row(
            subject,
            f"multiple choice, {task}, mode=full",
            {name: _evaluation(lm, task, manager, limit) for name, lm in models.items()},
            "lm-eval hf / ours",
            ("hf", "ours"),
            2.0,
        )


def _against_full_depth(
    subject: Subject,
    name: str,
    load: Callable[..., Any],
    full: Any,
    manager: Any,
    limit: int | None,
) -> Iterator[Row]:
    """A quarter of the layers saved by every token of the answers, then by the prompts' too."""
    depth = full.config.num_hidden_layers * 3 // 4
    exits = {"exit_rule": "fixed_depth", "exit_layers": depth, "reference": False}
    models = {
        "full depth": full,
        "answers": load(**exits),
        "prompts too": load(**exits, prompt_exit=depth),
    }
    for task in _SAMPLES:
        runs = {name: _evaluation(lm, task, manager, limit) for name, lm in models.items()}
        found = alternate(runs, max(1, subject.rounds // 2))
        for which in ("answers", "prompts too"):
            yield Row(
                "Documents",
                name,
                f"{task}, {limit or 'all'} documents, {which} after {depth} layers",
                "exits / mode=full",
                found[which] / found["full depth"],
                0.75,
                at_most=True,
                seconds={some: found[some] for some in ("full depth", which)},
            )


def _row(
    subject: Subject,
    what: str,
    runs: Mapping[str, Contestant],
    meaning: str,
    pair: tuple[str, str],
    goal: float,
) -> Row:
    found = alternate(runs, max(1, subject.rounds // 2))
    return Row(
        "Documents",
        _name(subject),
        what,
        meaning,
        found[pair[0]] / found[pair[1]],
        goal,
        seconds=found,
    )


def _limit(subject: Subject) -> int | None:
    """Documents of a sample for the embedded model; ``None`` for all."""
    return 4 if subject.quick else None


def _name(subject: Subject) -> str:
    return subject.name.split()[0] + " tiny"


def _evaluation(lm: Any, task: str, manager: Any, limit: int | None = None) -> Callable[[], object]:
    return partial(evaluate, lm, [task], manager, limit=limit)


class _Timed:
    """A model that adds up the seconds in which it answers."""

    inside = 0.0

    def generate_until(self, requests: Any, *args: Any) -> Any:
        answers: list[Any] = []
        answer = super().generate_until  # type: ignore[misc]
        self.inside += seconds(lambda: answers.append(answer(requests, *args)))
        return answers[0]


def _outside(subject: Subject, lm: Any) -> Row:
    """The share of a run of short documents in which no request is answered."""
    from lm_eval.tasks import TaskManager

    count = 40 if subject.quick else 2000
    with tempfile.TemporaryDirectory() as folder:
        manager = TaskManager(include_path=_short(Path(folder), count), include_defaults=False)
        whole = seconds(_evaluation(lm, "short", manager))
    return Row(
        "Documents",
        _name(subject),
        f"{count} short documents, mode=full",
        "outside the model / all",
        1 - lm.inside / whole,
        0.1,
        at_most=True,
        seconds={"all": whole, "model": lm.inside},
    )


def _short(folder: Path, count: int) -> str:
    """A folder with a task of ``count`` questions, each with an answer of at most 8 tokens."""
    records = folder / "records.jsonl"
    lines = [json.dumps({"question": f"What is {one} and {one}?"}) for one in range(count)]
    records.write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {
        "task": "short",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(records)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "short.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    return str(folder)


def questions_of(manager: Any) -> list[str]:
    """Those of TriviaQA's sample."""
    from lm_eval.tasks import get_task_dict

    (task,) = get_task_dict(["dynamax_triviaqa_sample"], manager).values()
    return [str(doc["question"]) for doc in task.eval_docs]


def uneven(questions: list[str], count: int) -> list[Any]:
    """Prompts of a few tokens, and answers whose lengths are spread from 1 to 64 tokens."""
    draw = random.Random(0)
    return [
        _request(f"{number}: {questions[number % len(questions)]}", draw.randint(1, _MOST))
        for number in range(count)
    ]


def shots(questions: list[str], count: int) -> list[Any]:
    """Questions after five answered ones, the same for all."""
    header = "".join(f"Question: {one}\nAnswer: of course\n\n" for one in questions[:5])
    return [
        _request(f"{header}Question: {number}: {questions[number % len(questions)]}\nAnswer:", 8)
        for number in range(count)
    ]


def _request(prompt: str, tokens: int) -> Any:
    from lm_eval.api.instance import Instance

    options = {"until": ["\0"], "max_gen_toks": tokens, "do_sample": False}
    return Instance("generate_until", {}, (prompt, options), 0)
