"""A task's own code, from the installed task files, over logged documents.

The task is built without its data, which the logged documents replace. Code is never read from a
results file; the file that it names must be among the installed tasks of lm-eval or this package.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynamax_lm.common.errors import error_line
from dynamax_lm.harness.task_of_documents import task_of_documents
from dynamax_lm.harness.task_parts import filters_of, load_task_file
from dynamax_lm.report.runs import Run, Sample

_KNOWN = re.compile(r".*/(?P<package>dynamax_lm|lm_eval)/tasks/(?P<rest>.+\.ya?ml)")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_ELSEWHERE = frozenset(
    {"num_fewshot", "generation_kwargs", "metadata", "dataset_kwargs", "task_alias"}
)
"""Options of the command line, and the path of the data; all but the last are checked elsewhere."""


class NoTaskCodeError(Exception):
    """The reason why a task cannot be built."""


class TaskCode:
    """One task, built from its file.

    Args:
        run: the run that names the task's file.
        task: the task's name.
        samples: with the documents that replace the task's data; at least one.

    Raises:
        NoTaskCodeError: its file is not installed, or its code fails.
    """

    def __init__(self, run: Run, task: str, samples: Sequence[Sample]) -> None:
        config: Mapping[str, Any] = run.of_task("configs", task) or {}
        path = _installed(str((config.get("metadata") or {}).get("config_source")))
        with _quiet():
            try:
                self._config = _load(path, task)
                self._task = _build(self._config, [sample.doc for sample in samples])
            except NoTaskCodeError:
                raise
            except Exception as error:  # a task's code may raise anything
                raise NoTaskCodeError(f"its code fails here ({error_line(error, 120)})") from error

    @property
    def configuration(self) -> dict[str, Any]:
        """The task's configuration from its file, as JSON values, without addresses."""
        return {k: v for k, v in self._shown.items() if k not in _ELSEWHERE}

    @property
    def generation_options(self) -> dict[str, Any]:
        """The generation options of its file, before those of the command line; maybe none."""
        return dict(self._shown.get("generation_kwargs") or {})

    @property
    def _shown(self) -> dict[str, Any]:
        from lm_eval.config.task import TaskConfig

        return dict(plain(TaskConfig(**copy.deepcopy(self._config)).to_dict()))

    def filtered(self, samples: Sequence[Sample], kind: str) -> list[list[Any]]:
        """For each sample, its responses after its filter, one for each request.

        Raises:
            NoTaskCodeError: there is no such filter, or it fails.
        """
        from lm_eval.api.instance import Instance

        groups = [
            [
                Instance(
                    request_type=kind,
                    doc=copy.deepcopy(sample.doc),
                    arguments=(prompt, option),
                    idx=index,
                    resps=[_response(one) for one in responses],
                )
                for index, (prompt, option, responses) in enumerate(
                    zip(sample.prompts, sample.options, sample.responses, strict=False)
                )
            ]
            for sample in samples
        ]
        (name,) = {sample.filter for sample in samples}
        chosen = [one for one in filters_of(self._task) if one.name == name]
        if not chosen:
            raise NoTaskCodeError(f"it has no filter {name!r} here")
        try:
            chosen[0].apply([instance for group in groups for instance in group])
        except Exception as error:  # a task's code may raise anything
            raise NoTaskCodeError(f"its filter fails here ({error_line(error, 120)})") from error
        return [[instance.filtered_resps[name] for instance in group] for group in groups]

    def metrics(self, sample: Sample, filtered: Sequence[Any]) -> dict[str, Any]:
        """The task's own metrics of one document.

        Raises:
            NoTaskCodeError: its code fails.
        """
        try:
            with _quiet():
                own = self._task.process_results(copy.deepcopy(sample.doc), list(filtered))
        except Exception as error:  # a task's code may raise anything
            raise NoTaskCodeError(f"its scoring fails here ({error_line(error, 120)})") from error
        return dict(plain(own))

    def target(self, sample: Sample) -> str:
        """The right answer, as text.

        Raises:
            NoTaskCodeError: its code fails.
        """
        return str(self._ask(self._task.doc_to_target, sample))

    def continuations(self, sample: Sample) -> list[str] | None:
        """The options' texts in order, or ``None`` where a document has one option or none.

        Raises:
            NoTaskCodeError: its code fails.
        """
        if self._task.config.doc_to_choice is None or self._task.multiple_input:
            return None
        choices = self._ask(self._task.doc_to_choice, sample)
        return [f"{self._task.config.target_delimiter}{choice}" for choice in choices]

    def question(self, sample: Sample) -> str | None:
        """What a prompt without a chat template ends with, or ``None``.

        Raises:
            NoTaskCodeError: its code fails.
        """
        text = self._ask(self._task.doc_to_text, sample)
        return text if isinstance(text, str) and not self._task.config.gen_prefix else None

    def _ask(self, function: Any, sample: Sample) -> Any:
        try:
            with _quiet():
                return function(copy.deepcopy(sample.doc))
        except Exception as error:  # a task's code may raise anything
            raise NoTaskCodeError(f"its code fails here ({error_line(error, 120)})") from error


def plain(value: Any) -> Any:
    """A value in lm-eval's JSON format, without the addresses of functions."""
    from lm_eval.utils import handle_non_serializable

    text = json.dumps(value, default=handle_non_serializable, ensure_ascii=False)
    return json.loads(_ADDRESS.sub("", text))


def without_addresses(value: Any) -> Any:
    """The same for a value that was read from a file."""
    return json.loads(_ADDRESS.sub("", json.dumps(value, ensure_ascii=False)))


def _installed(source: str) -> Path:
    """The installed file that a results file names, whatever its path there."""
    match = _KNOWN.fullmatch(source.replace("\\", "/"))
    if match is None:
        raise NoTaskCodeError("its file is not among lm-eval's tasks or ours")
    from dynamax_lm.harness.plugin.task_folder import TASKS

    if match["package"] == "dynamax_lm":
        folder = TASKS
    else:
        import lm_eval.tasks

        folder = Path(lm_eval.tasks.__file__).parent
    path = (folder / match["rest"]).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise NoTaskCodeError("its file is not here")
    return path


def _load(path: Path, task: str) -> dict[str, Any]:
    config = load_task_file(path)
    for name in ("tag", "group", "task_list"):
        config.pop(name, None)
    if config.get("task") != task or "class" in config:
        raise NoTaskCodeError("its file makes another task, or is a class")
    return config


def _build(config: Mapping[str, Any], docs: list[Any]) -> Any:
    if config.get("unsafe_code"):
        raise NoTaskCodeError("scoring executes code")
    return task_of_documents(config, docs)


def _response(logged: Any) -> Any:
    """A response for the task's code; lm-eval logs every part as text."""
    if isinstance(logged, (list, tuple)) and len(logged) == 2:
        return float(logged[0]), logged[1] == "True"
    return logged


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of task construction, which the run has given."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
