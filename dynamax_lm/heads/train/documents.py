"""Training text of exit heads: documents, and how a record becomes one.

A document is a prompt, which is prefilled at full depth as in an evaluation, and an answer, whose
tokens are checked at the exits. Plain text is a document without a prompt. No file or data set is
opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2

from dynamax_lm.common.errors import SettingError


class Document(NamedTuple):
    """A text; ``prompt`` is empty if all of it is checked at the exits.

    Attributes:
        prompt: prefilled at full depth.
        answer: checked at the exits.
        group: name of its group; if empty, ``held_out.group_of`` derives one.
        until: each ends an answer that the frozen model gives in place of this one.
    """

    prompt: str
    answer: str
    group: str = ""
    until: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """How a record becomes a document.

    Attributes:
        text_field: the field of plain text.
        doc_to_text: jinja2 template of the prompt, as in lm-eval's tasks; with it a record is a
            prompt and an answer.
        doc_to_target: jinja2 template of the answer.
        group_by: the field that names a record's group, if a field does.
    """

    text_field: str = "text"
    doc_to_text: str | None = None
    doc_to_target: str | None = None
    group_by: str | None = None

    def __post_init__(self) -> None:
        if (self.doc_to_text is None) != (self.doc_to_target is None):
            raise SettingError("--doc_to_text and --doc_to_target: give both or neither")
        for name in ("doc_to_text", "doc_to_target"):
            template = getattr(self, name)
            if template is not None:
                try:
                    _environment().from_string(template)
                except jinja2.TemplateError as error:
                    raise SettingError(f"--{name}={template!r}: not a template: {error}") from error

    def document(self, record: Mapping[str, Any], where: str) -> Document:
        """The document of ``record``; ``where`` names it in an error.

        Fields ``prompt`` and ``answer`` are used unchanged, and ``until`` beside them; so is the
        text field otherwise.

        Raises:
            SettingError: a field that the record lacks, or that is not text.
        """
        group = self._group(record, where)
        if self.doc_to_text is not None and self.doc_to_target is not None:
            return Document(
                _render(self.doc_to_text, record, where),
                _render(self.doc_to_target, record, where),
                group,
            )
        if self.text_field not in record and {"prompt", "answer"} <= record.keys():
            return Document(
                _text(record["prompt"], "prompt", where),
                _text(record["answer"], "answer", where),
                group,
                _stops(record.get("until"), where),
            )
        if self.text_field not in record:
            has = ", ".join(sorted(map(str, record))) or "no field"
            raise SettingError(
                f"{where}: no field {self.text_field!r}, only {has}; name the text with "
                f"--text_field, or lay the record out with --doc_to_text and --doc_to_target"
            )
        return Document("", _text(record[self.text_field], self.text_field, where), group)

    def _group(self, record: Mapping[str, Any], where: str) -> str:
        if self.group_by is None:
            return ""
        group = record.get(self.group_by)
        if group is None or isinstance(group, (dict, list)) or str(group) == "":
            has = ", ".join(sorted(map(str, record))) or "no field"
            raise SettingError(
                f"{where}: --group_by={self.group_by}: names no group; give a field with text or "
                f"a number in every record; it has {has}"
            )
        return str(group)


def _text(value: object, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise SettingError(f"{where}: field {field!r} is {type(value).__name__}, not text")
    return value


def _stops(value: object, where: str) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise SettingError(f"{where}: field 'until' is {value!r}: give a text or a list of texts")
    return tuple(stops)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def _render(template: str, record: Mapping[str, Any], where: str) -> str:
    try:
        return _environment().from_string(template).render(**record)
    except jinja2.TemplateError as error:
        has = ", ".join(sorted(map(str, record)))
        raise SettingError(f"{where}: {error.message} in {template!r}; it has {has}") from error
