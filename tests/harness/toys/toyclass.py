"""A task written in Python, which asks two kinds of requests for each document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task


class GenerateAndScore(Task):
    """Generates an answer, and scores the right one."""

    VERSION = 1
    OUTPUT_TYPE = "generate_until"

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config={"task": (config or {}).get("task", "toy_class")})

    def download(self, *_: Any, **__: Any) -> None:
        rows = [{"question": f"{i} plus {i}", "answer": str(2 * i)} for i in range(7)]
        self.dataset = {"test": datasets.Dataset.from_list(rows)}

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> Any:
        return self.dataset["test"]

    def fewshot_context(self, doc: dict[str, Any], *_: Any, **__: Any) -> str:
        return self.doc_to_text(doc)

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        return f"Q: {doc['question']}\nA:"

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return f" {doc['answer']}"

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        metadata = kwargs["metadata"]
        score = (ctx, self.doc_to_target(doc))
        return [
            Instance("generate_until", doc, (ctx, {"until": ["\n"]}), 0, metadata),
            Instance("loglikelihood", doc, score, 0, metadata),
        ]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        text, (likelihood, _) = results
        right = text.strip() == doc["answer"]
        return {"right": float(right), "surprise": -likelihood}

    def aggregation(self) -> dict[str, Callable[..., float]]:
        return {"right": mean, "surprise": max}

    def higher_is_better(self) -> dict[str, bool]:
        return {"right": True, "surprise": False}
