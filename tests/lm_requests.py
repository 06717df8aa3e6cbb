"""Requests of lm-eval, and models on checkpoints of ``tests.checkpoints`` that answer them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from dynamax_lm.models.exit_model import DynamaxLM
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral

KINDS = ["mistral", "llama", "mamba2"]


PROMPTS = [
    "Q: where?\nA:",
    "",
    "a",
    "The quick brown fox jumps over the lazy dog. " * 4,  # longer than the context
    "Question: who wrote it?\nAnswer:",
]


PAIRS = [
    ("Q: 1+1?\nA:", " 2"),
    ("Q: 1+1?\nA:", " 3"),
    ("Q: 1+1?\nA:", " none of these"),
    ("", "from nothing"),
    ("x" * 120, "too long a prompt"),
]


def ours(kind: str, folder: Path, **options: Any) -> DynamaxLM:
    cls = DynamaxMamba if kind == "mamba2" else DynamaxMistral
    defaults = {"device": "cpu", "dtype": "float32", "batch_size": 3}
    return cls(pretrained=str(folder), **defaults | options)


def theirs(folder: Path, **options: Any) -> HFLM:
    defaults = {"device": "cpu", "dtype": "float32", "batch_size": 1}
    return HFLM(pretrained=str(folder), **defaults | options)


def texts(prompts: list[str], **gen_kwargs: Any) -> list[Instance]:
    kwargs = {"until": ["\n\n"], "max_gen_toks": 12} | gen_kwargs
    return [
        Instance(
            "generate_until",
            {},
            (prompt, kwargs),
            0,
            ("toy", number, 1),
            task_name="toy",
            doc_id=number,
            repeats=1,
        )
        for number, prompt in enumerate(prompts)
    ]


def pairs(kind: str = "loglikelihood", items: list[Any] | None = None) -> list[Instance]:
    return [
        Instance(
            kind, {}, args, number, ("toy", number, 1), task_name="toy", doc_id=number, repeats=1
        )
        for number, args in enumerate(PAIRS if items is None else items)
    ]


def no_weights(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("weights were loaded before the refusal")
