"""Adds metrics to one task's results for the duration of one evaluation.

The wraps on a task object track which document is scored and which filter pass it is, and add the
metrics' aggregation and direction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.harness.bootstrap import aggregation_for
from dynamax_lm.harness.reference import PREFIX, scoring_bar

_ATTRIBUTE = "_early_exit_tap"
_METHODS = ("doc_iterator", "process_results", "aggregation", "higher_is_better")


class Tap:
    """The added values of one task, and the methods that report them.

    lm-eval scores a document without passing its index; the iterator over documents is therefore
    wrapped. There is one per filter. The first filter's pass reports all added values, the others
    the full-depth model's metrics.
    """

    def __init__(
        self,
        task: Any,
        values: Sequence[Mapping[int, Mapping[str, Any]]],
        same: Sequence[Collection[int]] = (),
    ) -> None:
        """Wraps ``task``.

        Args:
            task: the lm-eval task.
            values: for each filter, in the task's order, and each document id, the values to add.
            same: for each filter, documents whose own metrics are full depth's too.
        """
        self._values, self._same = values, same
        self._name = str(getattr(task, "task_name", "the task"))
        self._keys = {key for one in values for document in one.values() for key in document}
        self._passes = 0
        self._doc_id: int | None = None
        self._saved = {name: vars(task)[name] for name in _METHODS if name in vars(task)}
        self._original = {name: getattr(task, name) for name in _METHODS}
        for name in _METHODS:
            setattr(task, name, getattr(self, name))
        setattr(task, _ATTRIBUTE, self)

    def remove(self, task: Any) -> None:
        """Restores ``task``."""
        for name in (*_METHODS, _ATTRIBUTE):
            delattr(task, name)
        for name, value in self._saved.items():
            setattr(task, name, value)

    def doc_iterator(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """The task's own, tracking the current document."""
        self._passes += 1
        documents = self._original["doc_iterator"](*args, **kwargs)
        total = len(self._values[0]) if self._values else None
        for doc_id, doc in scoring_bar(documents, f"Metrics of {self._name}", total):
            self._doc_id = doc_id
            yield doc_id, doc

    def process_results(self, doc: Any, results: Any) -> dict[str, Any]:
        """The task's own metrics, which take precedence, and the added values."""
        own: dict[str, Any] = self._original["process_results"](doc, results)
        if not 1 <= self._passes <= len(self._values) or self._doc_id is None:
            return own
        added = dict(self._values[self._passes - 1].get(self._doc_id, {}))
        if self._same and self._doc_id in self._same[self._passes - 1]:
            added |= {PREFIX + name: value for name, value in own.items()}
            self._keys |= added.keys()
        return {**added, **own}

    def aggregation(self) -> dict[str, Callable[..., Any]]:
        """The task's own, and one for each added key."""
        from lm_eval.api.metrics import mean

        own = dict(self._original["aggregation"]())
        added: dict[str, Callable[..., Any]] = dict.fromkeys(HIGHER_IS_BETTER, mean)
        for key in sorted(self._keys):
            if key.startswith(PREFIX):
                name = key.removeprefix(PREFIX)
                added[key] = aggregation_for(name, own.get(name, mean))
        return {**added, **own}

    def higher_is_better(self) -> dict[str, bool | None]:
        """The task's own, and one for each added key."""
        own = dict(self._original["higher_is_better"]())
        added: dict[str, bool | None] = {}
        for key in sorted(self._keys):
            added[key] = HIGHER_IS_BETTER.get(key, own.get(key.removeprefix(PREFIX)))
        return {**added, **own}


def remove_tap(task: Any) -> None:
    """Removes the wraps of an earlier evaluation of the same task object."""
    tap = vars(task).get(_ATTRIBUTE)
    if isinstance(tap, Tap):
        tap.remove(task)
