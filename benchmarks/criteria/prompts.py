"""The documents of the benchmark: prompts as lm-eval builds them, one request each.

Test prompts come from the package's own tasks over a folder of records; those that the package's
samples hold are left out, since heads and thresholds may have been chosen on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import dynamax_lm
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text

TASKS = {
    "triviaqa": ("triviaqa_validation.jsonl", "sample.jsonl"),
    "coqa": ("coqa_validation.jsonl", "sample.jsonl"),
    "truthfulqa": ("truthfulqa_gen_validation.jsonl", "sample_gen.jsonl"),
}
"""Per task: the file of records, and the package's sample of them."""

_YAML = {
    "triviaqa": "dynamax_triviaqa_sample.yaml",
    "coqa": "dynamax_coqa_sample.yaml",
    "truthfulqa": "dynamax_truthfulqa_gen_sample.yaml",
}
_OWN_ANSWER = {"until": ["\n\n", "\nQ:", "\nQuestion:"], "do_sample": False}


class Prompt(NamedTuple):
    """One document.

    Attributes:
        task: ``triviaqa``, ``coqa``, ``truthfulqa``, or ``train``.
        text: what the model reads.
        gen_kwargs: as lm-eval passes them.
    """

    task: str
    text: str
    gen_kwargs: dict[str, Any]


def test_prompts(folder: Path, scratch: Path, limit: int, num_fewshot: int | None) -> list[Prompt]:
    """At most ``limit`` prompts of each task.

    Args:
        folder: of the records (``triviaqa_validation.jsonl``, ...).
        scratch: where task files are written.
        limit: of documents per task.
        num_fewshot: examples in front of a question; the task's own number if ``None``. Stories
            have earlier turns and TruthfulQA its own prompt in either case.

    Raises:
        SettingError: a file is missing.
    """
    from lm_eval import models as _  # noqa: F401 - the plugin's hook adds our tasks here

    from dynamax_lm.harness.plugin.task_folder import own_tasks

    manager = own_tasks()
    found: list[Prompt] = []
    for task, (name, sample) in TASKS.items():
        own = Path(dynamax_lm.__file__).parent / "tasks" / task
        records = _unseen(folder / name, own / sample)[:limit]
        if not records:
            continue
        shots = "" if num_fewshot is None else f"num_fewshot: {num_fewshot}\n"
        data = scratch / f"{task}.jsonl"
        write_text(data, "".join(json.dumps(record) + "\n" for record in records))
        spec = scratch / f"criteria_{task}.yaml"
        write_text(
            spec,
            f"include: {own / _YAML[task]}\ntask: criteria_{task}\n"
            f"dataset_kwargs:\n  data_files:\n    validation: {data}\n{shots}",
        )
        built = next(iter(manager.load(str(spec))["tasks"].values()))
        built.build_all_requests()
        found += [Prompt(task, one.args[0], one.args[1]) for one in built.instances]
    return found


def training_prompts(file: Path, limit: int, longest: int) -> list[Prompt]:
    """Prompts to train heads on: JSONL with a field ``prompt``; the model generates the answers.

    Args:
        file: as ``python -m training.heads.prompts`` writes it.
        limit: of prompts.
        longest: characters of a prompt; longer ones are left out.
    """
    found = []
    for record in _records(file):
        if len(record["prompt"]) <= longest:
            found.append(Prompt("train", record["prompt"], _OWN_ANSWER | {"max_gen_toks": 32}))
        if len(found) == limit:
            break
    return found


def training_windows(
    file: Path, encode: Callable[[str], list[int]], tokens: int, window: int = 256
) -> list[list[int]]:
    """Windows of the same records read as text, answers included, longest records first.

    Args:
        file: as for :func:`training_prompts`.
        encode: of the tokenizer.
        tokens: of all windows together, at most.
        window: tokens of each.
    """
    texts = sorted((r["prompt"] + r["answer"] for r in _records(file)), key=len, reverse=True)
    found: list[list[int]] = []
    left: list[int] = []
    for text in texts:
        left += encode(text)
        while len(left) >= window:
            if (len(found) + 1) * window > tokens:
                return found
            found.append(left[:window])
            del left[:window]
    return found


def _unseen(file: Path, sample: Path) -> list[dict[str, Any]]:
    """Records of ``file`` that share no question and no story with ``sample``."""
    used = {_key(record) for record in _records(sample)}
    return [record for record in _records(file) if _key(record) not in used]


def _key(record: dict[str, Any]) -> str:
    return str(record.get("story") or record["question"])


def _records(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # a text may hold U+2028
    except OSError as error:
        raise SettingError(f"{file}: cannot be read: {error.strerror}") from error
    return [json.loads(line) for line in lines if line.strip()]
