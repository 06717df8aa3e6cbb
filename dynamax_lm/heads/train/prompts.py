"""``python -m dynamax_lm.heads.train.prompts``: training prompts of heads, from tasks.

    python -m dynamax_lm.heads.train.prompts --tasks coqa,triviaqa --output_path prompts.jsonl
    python -m dynamax_lm.heads.train ... --data prompts.jsonl --group_by group --answers model

Each line is a document of a task's training split as the task prompts it, with its answer, what
ends an answer of the task, and its group. Documents of the evaluation are left out, and documents
that share a passage or a question are one group, so that what is held out by group was never
trained on.
"""

from __future__ import annotations

import json
import random
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.common.options import CommandParser
from dynamax_lm.common.outputs import write_text
from dynamax_lm.common.passages import contents, group, shared
from dynamax_lm.harness.command_line import Command, add_lm_eval_options, run_command
from dynamax_lm.harness.decontamination import evaluation_samples

_OPTIONS = (
    *("tasks", "num_fewshot", "limit", "include_path", "metadata", "seed", "trust_remote_code"),
    "output_path",
)


def main(arguments: list[str]) -> None:
    """Write the prompts of the tasks' training documents.

    Raises:
        SettingError: a wrong value, or a task without training documents.
    """
    options = parser().parse_args(arguments)
    if not options.output_path:
        raise SettingError("--output_path is missing: the JSONL file to write")
    path = Path(options.output_path)
    if path.is_dir():
        raise SettingError(f"--output_path {path}: this is a folder; give a file")
    command = Command(options)
    tasks = _load(command)
    seed = options.seed[0] if options.seed else 0
    records: list[dict[str, Any]] = []
    keys: list[frozenset[str]] = []
    for task in tasks:
        kept = _training_documents(task, command.config.limit, seed)
        for doc in _shown(kept, str(task.task_name)):
            records.append(_record(task, doc, command.config.num_fewshot))
            keys.append(shared(doc))
    if not records:
        raise SettingError("--tasks: every training document is in an evaluation; none is left")
    for number, members in enumerate(group(keys)):
        for member in members:
            records[member]["group"] = f"group-{number}"
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_text(path, "".join(lines))
    groups = len({record["group"] for record in records})
    sys.stdout.write(
        f"{len(records)} prompts in {groups} groups: {path}\n"
        "next: python -m dynamax_lm.heads.train --model dynamax-mamba --model_args pretrained=tiny"
        f" --data {shlex.quote(str(path))} --group_by group --answers model --cache "
        "--output_path heads/my-heads\n"
    )


def _load(command: Command) -> list[Any]:
    names = [str(name) for name in command.config.tasks]
    try:
        tasks = list(command.tasks.load(names)["tasks"].values())
    except Exception as error:  # a task's code and the hub's client may raise anything
        raise SettingError(
            f"--tasks {','.join(names)}: cannot be had: {first_line(error)}"
        ) from error
    for task in tasks:
        if not task.has_training_docs():
            raise SettingError(
                f"--tasks {task.task_name}: it has no training documents; name a task that has, or "
                "give heads.train a --data of your own"
            )
    return tasks


def _training_documents(task: Any, limit: float | None, seed: int) -> list[dict[str, Any]]:
    """Documents of the training split that no evaluation uses, a random ``limit`` of them."""
    used = set(evaluation_samples())
    for doc in task.eval_docs:
        used |= contents(doc)
    kept = [doc for doc in task.training_docs() if not contents(doc) & used]
    random.Random(seed).shuffle(kept)
    if limit is not None:
        kept = kept[: int(limit) if limit >= 1 else round(limit * len(kept))]
    return kept


def _record(task: Any, doc: dict[str, Any], num_fewshot: int | None) -> dict[str, Any]:
    shots = task.config.num_fewshot if num_fewshot is None else num_fewshot
    answer = task.doc_to_target(doc)
    if isinstance(answer, int) and not isinstance(answer, bool) and task.config.doc_to_choice:
        answer = task.doc_to_choice(doc)[answer]
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    record = {
        "prompt": str(task.fewshot_context(doc, int(shots or 0))),
        "answer": f"{task.config.target_delimiter}{answer}",
        "task": str(task.task_name),
    }
    until = (task.config.generation_kwargs or {}).get("until") or []
    # An empty stop ends nothing: lm-eval passes over it, and head training would refuse it.
    stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
    return record | ({"until": stops} if stops else {})


def _shown(documents: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """With a progress bar."""
    from tqdm import tqdm

    yield from tqdm(documents, desc=f"prompts of {name}")


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.heads.train.prompts",
        description="Training prompts of exit heads from the training documents of lm-eval tasks, "
        "without those that an evaluation uses.",
        example="python -m dynamax_lm.heads.train.prompts --tasks coqa,triviaqa "
        "--output_path prompts.jsonl",
    )
    add_lm_eval_options(made, _OPTIONS)
    made.set_defaults(model="dynamax-mistral")  # the command line of lm-eval asks for one
    return made


if __name__ == "__main__":
    run_command(main)
