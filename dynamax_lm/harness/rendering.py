"""Digests of everything that determines a task's requests and scores, except its documents.

This module defines which parts of a task's configuration count, and how functions do: by their
source, and by that of the functions, classes and constants of their own module, and of modules in
its folder, that they name, directly or indirectly; never by their address.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

_PARTS = (
    *("process_docs", "doc_to_text", "doc_to_target", "doc_to_choice", "doc_to_image"),
    *("doc_to_audio", "description", "target_delimiter", "fewshot_delimiter", "gen_prefix"),
    *("use_prompt", "process_results", "filter_list", "metric_list"),
)
_FIRST_OF_ALL = "FirstNSampler"
"""lm-eval's sampler of examples that draws nothing."""

_NOT_OF_EXAMPLES = ("split",)  # a name; the examples themselves count
_HOST = ("lm_eval.api.", "builtins.", "abc.", "typing.")
_CONSTANTS = (bool, int, float, str, list, tuple, dict, set, frozenset, re.Pattern)


def rendering_of(task: Any, random_state: object) -> dict[str, str]:
    """A digest for each part of a task that determines a request or a score.

    Empty parts have none, so that an omitted part and an empty one are equal.

    Args:
        task: lm-eval's task object.
        random_state: of the generator that draws examples, before the first was drawn.
    """
    found = {name: task.get_config(name) for name in _PARTS}
    found["class"] = type(task) if _own_classes(type(task)) else None
    if int(task.get_config("num_fewshot") or 0) > 0:
        sampler = getattr(task, "sampler", None)
        settings = task.get_config("fewshot_config")
        if is_dataclass(settings):
            found["fewshot_config"] = {
                field.name: getattr(settings, field.name)
                for field in fields(settings)
                if field.name not in _NOT_OF_EXAMPLES
            }
        found["sampler"] = type(sampler)
        found["examples"] = _documents(getattr(sampler, "df", None) or ())
        if type(sampler).__name__ != _FIRST_OF_ALL:
            found["seed"] = random_state
    return {name: digest(value) for name, value in found.items() if value not in (None, "", [], {})}


def task_digest(task: Any, *, num_fewshot: int | None) -> str:
    """A digest of a task, of its documents and of the examples it draws from.

    Args:
        task: lm-eval's task object, before requests are built.
        num_fewshot: that will be asked for; ``None`` for the task's own number.
    """
    own = int(task.get_config("num_fewshot") or 0)
    found: dict[str, Any] = {
        "rendering": rendering_of(task, None),
        "output_type": str(task.OUTPUT_TYPE),
        "num_fewshot": own,
        "generation": task.get_config("generation_kwargs"),
        "repeats": task.get_config("repeats"),
        "metadata": {
            k: v for k, v in (task.get_config("metadata") or {}).items() if k == "version"
        },
        "documents": _documents(task.eval_docs),
    }
    if own if num_fewshot is None else num_fewshot:
        found["examples"] = _documents(task.fewshot_docs() or ())
    return digest(found)


def chat_template_of(render: Callable[..., str] | None) -> str | None:
    """A digest of the text of a model's chat template.

    Not of rendered prompts, which may contain the date.
    """
    if render is None:
        return None
    tokenizer = getattr(getattr(render, "__self__", None), "tokenizer", None)
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default", template)
    return digest(render if template is None else template)


def _documents(examples: Iterable[Any]) -> str:
    """A digest of the set and order of the examples, of which there may be many."""
    seen = hashlib.sha256()
    for example in examples:
        seen.update(json.dumps(example, sort_keys=True, default=str).encode() + b"\n")
    return seen.hexdigest()


def digest(value: Any) -> str:
    """SHA-256, truncated to 16 digits, of any value of a configuration."""
    told = json.dumps(_Contents().of(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


class _Contents:
    """Renders values as JSON, equal in every process.

    Functions and classes are rendered once, and then by name: they may name each other.
    """

    def __init__(self) -> None:
        self._said: set[int] = set()
        self._inside: list[int] = []

    def of(self, value: Any) -> Any:
        """The value in JSON."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (types.FunctionType, type)):
            return self._once(value)
        if id(value) in self._inside:
            return "holds itself"
        self._inside.append(id(value))
        try:
            return self._held(value)
        finally:
            self._inside.pop()

    def _held(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self.of(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of(one) for one in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self.of(one) for one in value), key=json.dumps)
        if isinstance(value, re.Pattern):
            return [value.pattern, value.flags]
        if isinstance(value, functools.partial):
            return [self.of(one) for one in (value.func, value.args, value.keywords)]
        if isinstance(value, types.MethodType):
            return [self.of(value.__func__), self.of(_vars_of(value.__self__))]
        return [self.of(type(value)), self.of(_vars_of(value))]

    def _once(self, value: Any) -> Any:
        name = value.__qualname__
        if id(value) in self._said:
            return name
        self._said.add(id(value))
        if isinstance(value, type):
            return [name, *(self._class(one) for one in _own_classes(value))]
        return self._function(value)

    def _class(self, kind: type) -> dict[str, Any]:
        members = (getattr(one, "__func__", one) for _, one in sorted(vars(kind).items()))
        functions = [one for one in members if isinstance(one, types.FunctionType)]
        return {"source": _source(kind), "members": [self._function(one) for one in functions]}

    def _function(self, function: types.FunctionType) -> dict[str, Any]:
        here = function.__module__
        uses: dict[str, Any] = {}
        for name in sorted(_names(function.__code__)):
            used = function.__globals__.get(name)
            own = getattr(used, "__module__", None) == here or _beside(used, function)
            if isinstance(used, types.ModuleType):
                uses[name] = _source(used) if own else used.__name__
            elif own or isinstance(used, _CONSTANTS):
                uses[name] = self.of(used)
            elif callable(used):
                named = getattr(used, "__qualname__", type(used).__qualname__)
                uses[name] = f"{getattr(used, '__module__', '')}.{named}"
        return {
            "source": _source(function),
            "defaults": self.of([function.__defaults__, function.__kwdefaults__]),
            "closure": [self.of(cell.cell_contents) for cell in function.__closure__ or ()],
            "uses": uses,
        }


def _beside(used: object, function: types.FunctionType) -> bool:
    """Whether ``used``, of another module, lies in the folder of ``function``: a task's helper."""
    if not isinstance(used, (types.FunctionType, type, types.ModuleType)):
        return False
    try:
        file = inspect.getfile(used)
    except (TypeError, OSError):
        return False  # built in
    return Path(file).parent == Path(function.__code__.co_filename).parent


def _vars_of(value: object) -> dict[str, Any]:
    """An object's own attributes; its text where it has none, unless that is an address."""
    known = getattr(value, "__dict__", None)
    if known is not None:
        return {} if isinstance(value, type) else dict(known)
    text = str(value)
    return {} if " at 0x" in text else {"text": text}


def _names(code: types.CodeType) -> set[str]:
    """Global names that a code object, and those nested in it, may look up."""
    inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
    return set(code.co_names).union(*(_names(one) for one in inner))


def _own_classes(kind: type) -> list[type]:
    """A class and its bases, without lm-eval's."""
    return [one for one in kind.__mro__ if not f"{one.__module__}.".startswith(_HOST)]


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return str(thing.__name__) if code is None else str(code.co_code.hex())
