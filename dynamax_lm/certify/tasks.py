"""The tasks of a certification: loaded, checked and counted before any weights load.

This module selects the documents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamax_lm.certify.units import CONTENTS, draw
from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.common.passages import contents, group, shared
from dynamax_lm.harness.command_line import Command
from dynamax_lm.harness.decontamination import digest, read_records, value_of


@dataclass(frozen=True)
class ChosenTask:
    """One task and the documents it is tested on.

    Attributes:
        task: lm-eval's task object.
        documents: indices into its documents, ascending.
        unit_of: for each the number of its unit, in the order of the test.
        grouped_by: ``contents``, or the field that groups documents into units.
        digest: of their contents.
        data: name of the file they came from, or ``None``.
        repeated: documents excluded because an earlier one has the same contents.
        overlapping: documents excluded because evaluation or training uses them.
    """

    task: Any
    documents: tuple[int, ...]
    unit_of: tuple[int, ...]
    grouped_by: str
    digest: str
    data: str | None
    repeated: int
    overlapping: int

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self.task.task_name)

    @property
    def units(self) -> int:
        """Number of independent units of documents."""
        return len(set(self.unit_of))

    @property
    def repeats(self) -> int:
        """Answers for each document."""
        return int(self.task.get_config("repeats") or 1)


def read_data(given: Sequence[str] | None, names: Sequence[Any]) -> dict[str, Path]:
    """The file of each task's records, by task; empty where tasks have their own documents.

    >>> read_data(["a=one.jsonl", "b=two.jsonl"], ["a", "b"])["b"].name
    'two.jsonl'

    Args:
        given: one ``FILE`` for one task, or ``TASK=FILE`` for each; ``None`` for no file.
        names: of the tasks.

    Raises:
        SettingError: several tasks without a file of their own, or a file for no task.
    """
    if not given:
        return {}
    told = f"tasks={','.join(map(str, names))}"
    if len(given) == 1 and given[0].partition("=")[0] not in names:
        if len(names) != 1:
            each = " ".join(f"{name}=FILE" for name in names)
            raise SettingError(
                f"data={given[0]}: gives one task its documents, got {told}; for several give "
                f"--data {each}"
            )
        return {str(names[0]): Path(given[0])}
    found: dict[str, Path] = {}
    for one in given:
        name, bar, file = one.partition("=")
        if not bar or name not in names or name in found:
            raise SettingError(f"data={one}: give TASK=FILE once for each task of {told}")
        found[name] = Path(file)
    if missing := [str(name) for name in names if name not in found]:
        raise SettingError(f"data={' '.join(given)}: no file for {', '.join(missing)} of {told}")
    return found


def load_tasks(command: Command, data: Mapping[str, Path]) -> list[Any]:
    """The tasks of names, groups and tags; or, where there are files, each over its file's records.

    Args:
        command: with the tasks' names.
        data: by task, the file of its records; of all tasks or of none.

    Raises:
        SettingError: data that cannot be found or read, a group with a file, or a task whose
            few-shot examples would be certified documents.
    """
    names = command.config.tasks
    if data:
        tasks = [_over_records(command.tasks, name, file) for name, file in data.items()]
        for task in tasks:
            _check_examples(task, command.config.num_fewshot)
    else:
        try:
            tasks = list(command.tasks.load(list(names))["tasks"].values())
        except Exception as error:  # a task's code and the hub's client may raise anything
            line = _first_line(error)
            raise SettingError(
                f"tasks={','.join(map(str, names))}: its documents cannot be had: {line}; "
                "--data FILE gives records of your own in the task's columns"
            ) from error
    for task in tasks:
        _render_each(task, data.get(task.task_name))
    return tasks


def _check_examples(task: Any, few_shot: int | None) -> None:
    own = task.get_config("num_fewshot")
    number = own if few_shot is None or own == 0 else few_shot  # a task's own 0 stays, in lm-eval
    if number and getattr(getattr(task, "fewshot_cfg", None), "samples", None) is None:
        raise SettingError(
            f"num_fewshot={number}: with --data the examples would be documents that are "
            "certified on; give --num_fewshot 0, or certify on the task's own documents"
        )


def choose_documents(
    task: Any,
    *,
    data: Path | None,
    used_elsewhere: Collection[str],
    limit: float | None,
    seed: int,
    group_by: str | None,
) -> ChosenTask:
    """Documents used nowhere else, without duplicates; a random sample of ``limit`` of them.

    Args:
        task: lm-eval's task object.
        data: the file of its documents.
        used_elsewhere: hashes of documents in evaluation and training.
        limit: number of documents, or a share of them if below 1; all if ``None``.
        seed: of the draw, and of the order of units.
        group_by: field that groups documents into units; shared contents if ``None``.
    """
    elsewhere, seen = frozenset(used_elsewhere), set()
    kept: list[tuple[int, frozenset[str]]] = []
    keys: list[frozenset[str]] = []
    repeated = overlapping = 0
    for number, doc in enumerate(task.eval_docs):
        told = contents(doc)
        if told & elsewhere:
            overlapping += 1
        elif told in seen:
            repeated += 1
        else:
            seen.add(told)
            kept.append((number, told))
            keys.append(shared(doc) if group_by is None else value_of(doc, group_by))
    drawn = draw(group(keys), limit, seed)
    used = [kept[place] for place in drawn.documents]
    return ChosenTask(
        task=task,
        documents=tuple(number for number, _ in used),
        unit_of=drawn.unit_of,
        grouped_by=group_by or CONTENTS,
        digest=digest(told for _, told in used),
        data=None if data is None else data.name,
        repeated=repeated,
        overlapping=overlapping,
    )


def _over_records(manager: Any, name: str, data: Path) -> Any:
    """The named task, with the file's records for its documents."""
    import datasets

    if name not in manager.all_subtasks:
        why = "gives one task its documents; name a task, no group"
        raise SettingError(f"data={data}: {why}, got tasks={name}")
    records = list(read_records(data))
    try:
        # Rows of different columns are given all of them, empty.
        columns = list(dict.fromkeys(name for record in records for name in record))
        rows = datasets.Dataset.from_list([{c: r.get(c) for c in columns} for r in records])
    except Exception as error:  # pyarrow has many
        raise SettingError(
            f"data={data}: records differ in the types of their columns: {_first_line(error)}"
        ) from error

    def documents(**_: Any) -> dict[str, Any]:
        return {"certification": rows}

    entry = {
        "task": name,
        "custom_dataset": documents,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": None,
        "training_split": None,
        "validation_split": None,
        "test_split": "certification",
        "fewshot_split": None,
    }
    try:
        loaded = manager.load([{"group": "certification", "task": [entry]}])
    except Exception as error:  # a task's code may raise anything
        raise _wrong_columns(name, data, columns, error) from error
    return loaded["tasks"][name]


def _render_each(task: Any, data: Path | None) -> None:
    """Renders every document's prompt, so that wrong columns fail before weights load."""
    for number, doc in enumerate(task.eval_docs):
        try:
            task.doc_to_text(doc)
            task.doc_to_target(doc)
            if task.OUTPUT_TYPE == "multiple_choice":
                task.doc_to_choice(doc)
        except Exception as error:  # a task's code may raise anything
            if data is None:
                why = f"document {number} cannot be asked: {_first_line(error)}"
                raise SettingError(f"tasks={task.task_name}: {why}") from error
            raise _wrong_columns(task.task_name, data, list(doc), error) from error


def _wrong_columns(task: str, data: Path, columns: Sequence[str], error: Exception) -> SettingError:
    return SettingError(
        f"data={data}: its records do not have the columns that {task} reads "
        f"({_first_line(error)}); they have {', '.join(columns)}"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:200]
