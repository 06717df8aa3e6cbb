"""The trace folder: one JSON line for each token, one file for each task and rank.

Rows are written to a hidden temporary file, which gets its final name only when the task is
complete, so that a trace file is whole or absent.

A line has no schema number: its fields are its schema, and a missing or unknown one is refused. So
a field whose meaning changes gets another name. The manifest of the run, which has each trace's
digest, has a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import replacing
from dynamax_lm.common.validation import is_finite
from dynamax_lm.core.trace import AnswerTrace, DraftRound

if TYPE_CHECKING:
    from typing import Self


class TraceLine(NamedTuple):
    """One line of a trace file.

    Attributes:
        task: the task's name.
        doc_id: the document, numbered as in lm-eval's samples.
        request: index of the request in its document: the option of a multiple choice.
        repeat: index of the repeat.
        window: index of the window of a rolling likelihood; 0 elsewhere.
        position: index of the token in its answer (or window), from 0.
        token: the answer's token id.
        emitted: the token that the exit emitted; differs from ``token`` only in scoring.
        layers_used: decoder layers run for it, 1..L.
        confidence: at the exit it took, or at the last exit checked.
        full_depth: full depth's most likely token after the same prefix.
        prompt_tokens: tokens prefilled before the answer (or window) began; the token's position in
            its whole sequence is ``prompt_tokens + position``.
        reference_pass: the token of the reference's parallel pass, where ``full_depth`` is known
            without it.
        text_tokens: how many of the answer's tokens make its text, as in `AnswerTrace`; ``None``
            for scored continuations.
        draft: of a lossless answer's first token of a round, the round as `DraftRound.to_json` has
            it; ``None`` elsewhere, and then left out of the file.
        prompt_exit: layers that the prefilled tokens ran; ``None`` for all, and then left out.
    """

    task: str
    doc_id: int
    request: int
    repeat: int
    window: int
    position: int
    token: int
    emitted: int
    layers_used: int
    confidence: float | None
    full_depth: int | None
    prompt_tokens: int
    reference_pass: int | None = None
    text_tokens: int | None = None
    draft: list[Any] | None = None
    prompt_exit: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether the token is part of the text, not only of the stop sequence."""
        return self.text_tokens is None or self.position < self.text_tokens

    @classmethod
    def from_json(cls, data: object) -> Self:
        """A line of a file.

        Raises:
            ValueError: a value is missing, unknown, or of another kind.
        """
        if not isinstance(data, dict):
            raise ValueError("a line is no JSON object")
        optional = cls._field_defaults
        needed = (set(cls._fields) - set(optional)) | {"text_tokens"}
        if lacking := sorted(needed - set(data)):
            told = ", ".join(lacking)[:60]
            raise ValueError(f"damaged or of an older version: rows lack {told}; run it again")
        if unknown := sorted(map(str, set(data) - set(cls._fields))):
            told = ", ".join(unknown)[:60]
            raise ValueError(f"damaged or of a newer version: rows have {told}; update dynamax-lm")
        for name, value in data.items():
            if not _fits(name, value, name in _MAY_BE_NULL or name in optional):
                raise ValueError(f"{name} is {json.dumps(value)[:40]}")
        return cls(**data)


_MAY_BE_NULL = frozenset({"confidence", "full_depth"})


def _fits(name: str, value: object, may_be_null: bool) -> bool:
    """Whether a value has its field's type: a name, a confidence, or a count."""
    if value is None or isinstance(value, bool):
        return value is None and may_be_null
    if name == "task":
        return isinstance(value, str)
    if name == "draft":
        return DraftRound.is_json(value)
    if name == "confidence":
        return is_finite(value)
    return isinstance(value, int) and value >= 0


def lines_of(
    traces: Sequence[AnswerTrace], task: str, doc_id: int, request: int = 0, repeat: int = 0
) -> Iterator[TraceLine]:
    """The lines of one answer, window by window."""
    for window, trace in enumerate(traces):
        drafts = {one.start: one.to_json() for one in trace.rounds or ()}
        for row in trace.rows():
            yield TraceLine(
                *(task, doc_id, request, repeat, window),
                **row._asdict(),
                prompt_tokens=trace.prompt_tokens,
                text_tokens=trace.text_tokens,
                draft=drafts.get(row.position),
                prompt_exit=trace.prompt_exit,
            )


def rounds_of(answer: Iterable[TraceLine]) -> list[DraftRound]:
    """The drafts of a lossless answer."""
    return [
        DraftRound.from_json(line.position, line.draft) for line in answer if line.draft is not None
    ]


def trace_of(answer: Sequence[TraceLine]) -> AnswerTrace:
    """The answer that `lines_of` wrote.

    Args:
        answer: the lines of one answer, or of one window, at least one, in order.
    """
    full_depth = [line.full_depth for line in answer if line.full_depth is not None]
    again = tuple(line.reference_pass for line in answer)
    return AnswerTrace(
        prompt_tokens=answer[0].prompt_tokens,
        tokens=tuple(line.token for line in answer),
        emitted=tuple(line.emitted for line in answer),
        layers_used=tuple(line.layers_used for line in answer),
        confidence=tuple(line.confidence for line in answer),
        full_depth=tuple(full_depth) if len(full_depth) == len(answer) else None,
        reference_pass=None if all(token is None for token in again) else again,
        text_tokens=answer[0].text_tokens,
        rounds=tuple(rounds_of(answer)) or None,
        prompt_exit=answer[0].prompt_exit,
    )


class TraceWriter:
    """Streams one task's rows, as a context manager that commits all of them or none."""

    def __init__(self, folder: Path, task: str, rank: int = 0, ranks: int = 1) -> None:
        """Names the file, which is opened when the context is entered.

        Args:
            folder: of trace files; created if missing.
            task: the task's name.
            rank: this process's number among those that share the task.
            ranks: their number.
        """
        self.task = task
        self.path = folder / _file_name(task, rank, ranks)
        self._ranks = ranks

    def __enter__(self) -> Self:
        self._open = ExitStack()
        partial = self._open.enter_context(replacing(self.path))
        self._file = self._open.enter_context(partial.open("w", encoding="utf-8"))
        return self

    def write(
        self, doc_id: int, request: int, repeat: int, traces: tuple[AnswerTrace, ...]
    ) -> None:
        """Writes the rows of one answer, window by window."""
        for line in lines_of(traces, self.task, doc_id, request, repeat):
            fields = line._asdict()
            for name in ("draft", "prompt_exit"):
                if fields[name] is None:
                    del fields[name]
            self._file.write(json.dumps(fields, separators=(",", ":")) + "\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)
        if kind is None:
            self._forget_other_splits()

    def _forget_other_splits(self) -> None:
        """Removes an earlier run's files of the same task with another number of ranks."""
        keep = {_file_name(self.task, rank, self._ranks) for rank in range(self._ranks)}
        for path in trace_files(self.path.parent, self.task):
            if path.name not in keep:
                path.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Make the trace folder, and check before the run that it can be written.

    Raises:
        SettingError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise SettingError(
            f"trace_dir={str(folder)!r} cannot be written: {why}; give a folder that can be"
        ) from error


def trace_files(folder: Path, task: str | None = None) -> list[Path]:
    """The finished trace files in ``folder``, of one task or of all, sorted."""
    stem = ".+" if task is None else re.escape(_stem(task))
    pattern = re.compile(rf"trace_{stem}(\.rank\d+-of-\d+)?\.jsonl")
    return sorted(path for path in folder.glob("trace_*.jsonl") if pattern.fullmatch(path.name))


def read_trace(path: Path) -> Iterator[TraceLine]:
    """The lines of one trace file, one at a time.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a trace's.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield TraceLine.from_json(json.loads(line))


def _stem(task: str) -> str:
    return re.sub(r"[^\w.+=-]", "_", task)


def _file_name(task: str, rank: int, ranks: int) -> str:
    part = f".rank{rank}-of-{ranks}" if ranks > 1 else ""
    return f"trace_{_stem(task)}{part}.jsonl"
