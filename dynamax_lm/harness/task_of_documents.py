"""A task of lm-eval with documents that are given, in place of a data set that is downloaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def task_of_documents(config: Mapping[str, Any], docs: list[Any]) -> Any:
    """The task.

    Args:
        config: of a task file.
        docs: in every split; at least one.
    """
    from lm_eval.api.task import ConfigurableTask

    class FromDocuments(ConfigurableTask):  # type: ignore[misc]
        """The task with these documents for data."""

        def download(self, dataset_kwargs: Any = None, **kwargs: Any) -> None:
            splits = (config.get(f"{name}_split") for name in ("training", "validation", "test"))
            self.dataset = {split: _Documents(docs) for split in splits if split}

    given = copy.deepcopy(dict(config))
    given |= {"process_docs": None, "fewshot_split": None, "fewshot_config": None}
    given |= {"num_fewshot": 0}
    return FromDocuments(config={k: v for k, v in given.items() if v is not None})


class _Documents(list[Any]):
    """Documents with the attribute that a task reads of its data."""

    @property
    def features(self) -> dict[str, None]:
        """The documents' fields."""
        return dict.fromkeys(self[0])
