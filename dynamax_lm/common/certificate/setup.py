"""The conditions of a certificate: the model and exits, and the setup of a task.

This module has the two records and their comparison.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from dynamax_lm.common.certificate.records import Record
from dynamax_lm.common.errors import one_line
from dynamax_lm.common.validation import NOT_EMPTY, Count, Natural

_IN_WORDS = {
    "config": "configuration",
    "generation": "generation configuration",
}
_TOLD_APART = ("arguments", "checkpoint", "rendering", "metrics")
"""Mappings whose entries are compared one by one, so that a reason names the one that differs."""


@dataclass(frozen=True, kw_only=True)
class Setting(Record):
    """The model and exits that were tested.

    Attributes:
        model: ``dynamax-mistral`` or ``dynamax-mamba``.
        pretrained: hub id or folder, or ``tiny``. A name only: ``weights`` is compared.
        weights: digest of every byte of the weights.
        arguments: further model arguments that can change an answer and are not at their default,
            such as ``{"revision": "v2"}``.
        dtype: of the weights, such as ``torch.float32``.
        checkpoint: digests of its configuration, generation configuration, tokenizer and adapters.
        exit_layers: ascending.
        confidence: name of the measure, and of its look at the vocabulary unless that is exact.
        skipped_state: the skipped-state policy.
        heads: fingerprint of the trained heads, or ``None``.
    """

    model: str
    pretrained: str
    weights: str
    arguments: Mapping[str, str]
    dtype: str
    checkpoint: Mapping[str, str]
    exit_layers: Annotated[tuple[Count, ...], NOT_EMPTY]
    confidence: str
    skipped_state: str
    heads: str | None


@dataclass(frozen=True, kw_only=True)
class TaskSetup(Record):
    """The setup of a task: all that can change a request or a score, except the documents.

    Attributes:
        name: the task's name.
        version: of its configuration, as text.
        output_type: lm-eval's request type.
        num_fewshot: examples before each question.
        generation_kwargs: stops, lengths and sampling as sent; ``None`` where nothing is generated.
        repeats: answers for each document.
        apply_chat_template: whether prompts use the model's chat template.
        fewshot_as_multiturn: whether examples are turns of a conversation.
        chat_template: digest of the template's text, or ``None``.
        system_instruction: the system prompt, or ``None``.
        rendering: for each part of the task that determines a request or a score (templates,
            description, delimiters, filters, examples and the seed that draws them, ...) a digest;
            functions count by their source.
        metrics: of the task, each with whether higher is better.
        cached: whether requests came from lm-eval's request cache and differ from those that the
            task renders now.
    """

    name: str
    version: str
    output_type: str
    num_fewshot: Natural
    generation_kwargs: Mapping[str, Any] | None
    repeats: Count
    apply_chat_template: bool
    fewshot_as_multiturn: bool
    chat_template: str | None
    system_instruction: str | None
    rendering: Mapping[str, str]
    metrics: Mapping[str, bool | None]
    cached: bool = False


def difference(certified: Record, here: Record) -> str | None:
    """The first field in which two records of one kind differ, in words; names are ignored."""
    then, now = (json.loads(json.dumps(one.to_json())) for one in (certified, here))
    for name in then:
        if name == "pretrained" or then[name] == now[name]:
            continue
        if name in _TOLD_APART:
            part = next(
                key for key in {**then[name], **now[name]} if _differs(key, then, now, name)
            )
            field, then, now, name = name, then[name], now[name], part
            if part in ("seed", "examples"):
                return f"few-shot {part} differ from those it was certified with"
            if isinstance(certified, TaskSetup):
                return f"{part} of the task is not what was certified"
            if field == "checkpoint":
                return f"the checkpoint's {_IN_WORDS.get(part, part)} is not what was certified"
        if name == "weights":
            here_name, then_name = now["pretrained"], then["pretrained"]
            which = f"here {here_name}, certified for {then_name}"
            if here_name == then_name:
                which = f"{here_name} has changed since"
            return f"the weights are not those that were certified ({which})"
        if name == "chat_template" and now.get(name) and then.get(name):
            return "chat_template has another text than the one that was certified"
        return f"{name} is {_short(now.get(name))}, certified for {_short(then.get(name))}"
    return None


def _differs(key: str, then: dict[str, Any], now: dict[str, Any], name: str) -> bool:
    missing = object()
    return bool(then[name].get(key, missing) != now[name].get(key, missing))


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = one_line(text) if isinstance(value, str) else text
    return text if len(text) <= 100 else text[:97] + "..."
