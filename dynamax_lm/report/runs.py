"""One run and one document's sample, from the fields of lm-eval's results and samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dynamax_lm.common.passages import shared
from dynamax_lm.common.tracefile import TraceLine, trace_files
from dynamax_lm.common.validation import is_finite

_Kind = TypeVar("_Kind")

_STDERR = "_stderr"
_HASHED = ("doc", "prompt", "target")
_NOT_METRICS = frozenset({"name", "alias", "sample_len", "sample_count", " "})


class Value(NamedTuple):
    """A number of the results table.

    Attributes:
        mean: the aggregate.
        stderr: its standard error, or ``None`` where lm-eval has none.
    """

    mean: float
    stderr: float | None


class MetricKey(NamedTuple):
    """A metric of a task under one of its filters."""

    metric: str
    filter: str


@dataclass(frozen=True)
class Sample:
    """One document under one filter, as lm-eval logged it.

    Attributes:
        doc_id: the document's number.
        filter: the filter's name.
        hashes: of document, prompt and target, where logged.
        metrics: every value logged for it, by name.
        prompts: the prompt of each request.
        continuations: the text scored for each request; ``None`` for generation.
        responses: for each request, the response of each repeat.
        doc: the document itself.
        target: the right answer, as text.
        options: further arguments of each request, such as generation options.
        filtered: for each request, its responses after the filter.
    """

    doc_id: int
    filter: str
    hashes: tuple[str, str, str]
    metrics: Mapping[str, Any]
    prompts: tuple[str, ...]
    continuations: tuple[str | None, ...]
    responses: tuple[tuple[Any, ...], ...]
    doc: Any
    target: str
    options: tuple[Any, ...]
    filtered: tuple[Any, ...]

    @cached_property
    def shared(self) -> frozenset[str]:
        """Keys, of which documents of one unit have one in common; see ``common.passages``."""
        if isinstance(self.doc, Mapping):
            return shared(self.doc)
        return frozenset({str(self.doc_id)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        """A line of a samples file.

        Raises:
            KeyError, TypeError, ValueError: not such a line.
        """
        names = _of(data.get("metrics", []), list, "metrics")
        arguments = [
            list(_of(request, dict, "a request").values())
            for request in _of(data["arguments"], dict, "arguments").values()
        ]
        second = [request[1] if len(request) > 1 else None for request in arguments]
        hashes = [_of(data.get(f"{of}_hash", ""), str, "a hash") for of in _HASHED]
        for name in names:
            if name not in data:
                raise ValueError(f"its metric {name!r} has no value")
        return cls(
            doc_id=_of(data["doc_id"], int, "doc_id"),
            filter=_of(data["filter"], str, "filter"),
            hashes=(hashes[0], hashes[1], hashes[2]),
            metrics={name: data[name] for name in names},
            prompts=tuple(_of(request[0], str, "a prompt") for request in arguments),
            continuations=tuple(text if isinstance(text, str) else None for text in second),
            responses=tuple(
                tuple(_of(answers, list, "the responses to a request"))
                for answers in _of(data["resps"], list, "resps")
            ),
            doc=data.get("doc"),
            target=_of(data.get("target", ""), str, "target"),
            options=tuple(second),
            filtered=tuple(_of(data.get("filtered_resps", []), list, "filtered_resps")),
        )

    def number(self, metric: str) -> float | None:
        """A metric's value, or ``None`` if it is not a finite number."""
        value = self.metrics.get(metric)
        if isinstance(value, (bool, int, float)) and math.isfinite(value):
            return float(value)
        return None


@dataclass(frozen=True)
class Run:
    """One results file and its samples and traces.

    Attributes:
        path: the results file.
        data: its JSON.
        sample_files: the samples file of each task that has one.
        trace_folder: of its traces, or ``None``.
    """

    path: Path
    data: Mapping[str, Any]
    sample_files: Mapping[str, Path]
    trace_folder: Path | None

    @property
    def config(self) -> Mapping[str, Any]:
        """lm-eval's ``config``."""
        config: Mapping[str, Any] = self.data.get("config") or {}
        return config

    @property
    def early_exit(self) -> Mapping[str, Any] | None:
        """This package's block, or ``None`` for a run of another model."""
        return self.config.get("early_exit") or None

    @property
    def settings(self) -> Mapping[str, Any]:
        """This package's settings; empty for a run of another model."""
        settings: Mapping[str, Any] = (self.early_exit or {}).get("settings") or {}
        return settings

    @property
    def date(self) -> float:
        """Date of the run, in seconds since 1970; 0 where unknown."""
        date = self.data.get("date")
        return float(date) if isinstance(date, (int, float)) else 0.0

    @property
    def model(self) -> str:
        """lm-eval's name of the model type, such as ``dynamax-mistral`` or ``hf``."""
        return str(self.config.get("model") or self.data.get("model_source") or "unknown")

    @cached_property
    def model_args(self) -> dict[str, str]:
        """The model arguments as text, from any of lm-eval's formats."""
        given = self.config.get("model_args") or {}
        if isinstance(given, str):
            pairs = (part.partition("=") for part in given.split(",") if "=" in part)
            return {name.strip(): value.strip() for name, _, value in pairs}
        return {str(name): str(value) for name, value in given.items()}

    @property
    def pretrained(self) -> str:
        """The checkpoint's name."""
        name = self.settings.get("pretrained") or self.model_args.get("pretrained")
        return str(name or self.data.get("model_name") or "unknown")

    @property
    def layers(self) -> int | None:
        """L, where known."""
        return (self.early_exit or {}).get("layers")

    def tasks(self) -> Iterator[str]:
        """Every task and group with results."""
        for task, numbers in self.data["results"].items():
            if isinstance(numbers, Mapping) and any("," in key for key in numbers):
                yield str(task)

    def is_group(self, task: str) -> bool:
        """Whether ``task`` is a group of others."""
        return bool((self.data.get("group_subtasks") or {}).get(task))

    def values(self, task: str) -> dict[MetricKey, Value]:
        """All finite numbers of one task's results."""
        numbers = self.data["results"].get(task) or {}
        values = {}
        for key, mean in numbers.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith(_STDERR) or metric in _NOT_METRICS:
                continue
            if is_finite(mean):
                stderr = numbers.get(f"{metric}{_STDERR},{name}")
                values[MetricKey(metric, name)] = Value(
                    float(mean), float(stderr) if is_finite(stderr) else None
                )
        return values

    def totals(self, task: str) -> Mapping[str, Any] | None:
        """The token-pooled totals of one task."""
        tasks: Mapping[str, Any] = (self.early_exit or {}).get("tasks") or {}
        return tasks.get(task)

    def of_task(self, table: str, task: str) -> Any:
        """An entry of one of lm-eval's tables by task, such as ``versions``, or ``None``."""
        return (self.data.get(table) or {}).get(task)

    def documents(self, task: str) -> int | None:
        """Number of evaluated documents, if known."""
        counted = self.of_task("n-samples", task)
        if isinstance(counted, Mapping) and is_finite(counted.get("effective")):
            return int(counted["effective"])
        numbers = self.data["results"].get(task) or {}
        count = numbers.get("sample_len", numbers.get("sample_count"))
        return int(count) if is_finite(count) else None

    def trace_files(self, task: str) -> list[Path]:
        """The task's trace files."""
        return [] if self.trace_folder is None else trace_files(self.trace_folder, task)

    def owns(self, task: str, lines: Sequence[TraceLine]) -> bool:
        """Whether the depths of a trace are those of the results."""
        totals = self.totals(task) or {}
        depths = Counter(str(line.layers_used) for line in lines)
        published = (totals.get("with_stop") or {}).get("depth_histogram")
        return dict(depths) == dict(published or {})


def _of(value: Any, kind: type[_Kind], what: str) -> _Kind:
    """A value, if it has the required type."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{what} is {type(value).__name__}, not {kind.__name__}")
    return value
