"""Documents as windows of tokens, in batches, with a position in the stream that can be saved."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.sources import Source

Encode = Callable[[str], list[int]]
"""A text to token ids, special tokens included, as lm-eval would encode a prompt."""

POOL = 8
"""Batches whose windows are sorted by length together, to reduce padding."""


class Window(NamedTuple):
    """Tokens to run, of which those from ``start`` on are checked at the exits.

    The tokens before it are a prompt, always at full depth: the state of a classifier is empty at
    ``start``.
    """

    ids: tuple[int, ...]
    start: int


class Batch(NamedTuple):
    """Windows of one batch, with padding on the right.

    Attributes:
        ids: (B, T).
        starts: (B,) first token checked.
        lengths: (B,) tokens of each window.
    """

    ids: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, windows: list[Window]) -> Batch:
        """Pad to the longest."""
        longest = max(len(one.ids) for one in windows)
        ids = torch.zeros(len(windows), longest, dtype=torch.long)
        for row, one in enumerate(windows):
            ids[row, : len(one.ids)] = torch.tensor(one.ids)
        return cls(
            ids,
            torch.tensor([one.start for one in windows]),
            torch.tensor([len(one.ids) for one in windows]),
        )

    def windows(self) -> list[Window]:
        """The rows without padding."""
        return [
            Window(tuple(self.ids[row, :length].tolist()), int(self.starts[row]))
            for row, length in enumerate(self.lengths.tolist())
        ]

    @property
    def checked_tokens(self) -> int:
        """Number of tokens checked at the exits."""
        return int((self.lengths - self.starts).sum())

    def checked(self) -> tuple[Tensor, Tensor]:
        """The checked tokens: positions (B, A), and which of them are real (B, A)."""
        counts = self.lengths - self.starts
        offsets = torch.arange(int(counts.max()), device=counts.device)
        positions = self.starts[:, None] + offsets
        real = offsets < counts[:, None]
        return positions.clamp(max=self.ids.shape[1] - 1), real


@dataclass(frozen=True, slots=True)
class Packing:
    """How documents become windows.

    Attributes:
        window: tokens of a window of plain text, and largest number for a prompt with its answer.
        separator: token between packed plain texts, if the tokenizer has one.
        seed: determines the first checked token of a window of plain text.
    """

    window: int
    separator: int | None
    seed: int

    def windows(
        self, document: Document, ids: list[int], prompt: int, carry: list[int]
    ) -> Iterator[Window]:
        """The windows that ``document`` completes; remaining tokens are put into ``carry``.

        Args:
            document: the text.
            ids: its tokens.
            prompt: number of prompt tokens among them.
            carry: tokens of plain text that have not filled a window yet.
        """
        if document.prompt:
            cut = max(0, len(ids) - 1 - self.window)
            ids, prompt = ids[cut:-1], prompt - cut  # the last token is emitted, never run
            if 1 <= prompt <= len(ids):
                yield Window(tuple(ids), prompt - 1)  # the last prompt token emits the first answer
            return
        carry.extend(ids if self.separator is None else [*ids, self.separator])
        while len(carry) >= self.window:
            piece = tuple(carry[: self.window])
            del carry[: self.window]
            yield Window(piece, self._start(piece))

    def _start(self, piece: tuple[int, ...]) -> int:
        """A position in the first half; the tokens before it are the prompt."""
        return random.Random(f"start:{self.seed}:{piece}").randrange(max(1, len(piece) // 2))


@dataclass
class Position:
    """A position in the stream.

    Attributes:
        epoch: passes begun, from 0.
        document: documents of this pass already read.
        carry: tokens of plain text not yet in a window.
        pool: number of pools made.
    """

    epoch: int = 0
    document: int = 0
    carry: list[int] = field(default_factory=list)
    pool: int = 0


class BatchStream:
    """Endless batches in an order determined by the seed; can be saved and resumed exactly.

    Args:
        source: documents.
        keep: whether a document is in this stream's split.
        encode: text to ids.
        packing: documents to windows.
        batch_size: windows in a batch.
        name: of the data, in errors.
    """

    def __init__(
        self,
        source: Source,
        keep: Callable[[Document], bool],
        encode: Encode,
        packing: Packing,
        *,
        batch_size: int,
        name: str,
    ) -> None:
        self._source, self._keep, self._encode = source, keep, encode
        self._packing, self._batch_size, self._name = packing, batch_size, name
        self._at = Position()
        self._pool_start = self._copy()
        self._pool: list[Batch] = []
        self._given = 0
        self._documents: Iterator[Document] | None = None

    def state(self) -> dict[str, Any]:
        """The position, as plain data."""
        return {
            "epoch": self._pool_start.epoch,
            "document": self._pool_start.document,
            "carry": list(self._pool_start.carry),
            "pool": self._pool_start.pool,
            "given": self._given,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from ``state``."""
        fields = {name: state[name] for name in ("epoch", "document", "carry", "pool")}
        self._at = Position(**fields)
        self._documents = None
        self._pool, self._given = [], 0
        if state["given"]:
            self._fill()
            self._given = state["given"]
        else:
            self._pool_start = self._copy()

    @property
    def epoch(self) -> int:
        """Passes over the documents begun, from 0."""
        return self._at.epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.ahead()[0]
        self._given += 1
        return batch

    def ahead(self) -> list[Batch]:
        """The batches of the pool that comes first, which are still given."""
        if self._given == len(self._pool):
            self._fill()
        return self._pool[self._given :]

    def documents_read(self, whole: int) -> int:
        """Documents read so far, those of other splits too, where a pass has ``whole``."""
        return self._at.epoch * whole + self._at.document

    def once(self) -> Iterator[Batch]:
        """One pass, whose last batch may be smaller; for held-out text."""
        windows: list[Window] = []
        for window in self._one_pass([]):
            windows.append(window)
            if len(windows) == self._batch_size * POOL:
                yield from self._batches(windows, 0)
                windows = []
        yield from self._batches(windows, 0)

    def fills_a_window(self) -> bool:
        """Whether one pass has at least one window; reads only up to it."""
        return next(self._one_pass([]), None) is not None

    def _one_pass(self, carry: list[int]) -> Iterator[Window]:
        for document in self._source.documents(0):
            if self._keep(document):
                yield from self._windows_of(document, carry)

    def _copy(self) -> Position:
        at = self._at
        return Position(at.epoch, at.document, list(at.carry), at.pool)

    def _fill(self) -> None:
        self._pool_start = self._copy()
        wanted = self._batch_size * POOL
        windows: list[Window] = []
        while len(windows) < wanted:
            document = self._next_document()
            if document is not None:
                windows += self._windows_of(document, self._at.carry)
            elif not windows and self._at.pool == 0:  # the first pass, without a window
                raise SettingError(self._too_short())
        self._pool = list(self._batches(windows, self._at.pool))
        self._at.pool += 1
        self._given = 0

    def _next_document(self) -> Document | None:
        """The next document of the split; ``None`` where a pass ended."""
        if self._documents is None:
            self._documents = self._source.documents(self._at.epoch)
            for _ in range(self._at.document):
                next(self._documents)
        for document in self._documents:
            self._at.document += 1
            if self._keep(document):
                return document
        self._at.epoch, self._at.document, self._documents = self._at.epoch + 1, 0, None
        return None

    def _windows_of(self, document: Document, carry: list[int]) -> list[Window]:
        prompt = len(self._encode(document.prompt)) if document.prompt else 0
        ids = self._encode(document.prompt + document.answer)
        return list(self._packing.windows(document, ids, prompt, carry))

    def _batches(self, windows: list[Window], pool: int) -> Iterator[Batch]:
        windows = sorted(windows, key=lambda one: len(one.ids))
        size = self._batch_size
        groups = [windows[i : i + size] for i in range(0, len(windows), size)]
        random.Random(f"pool:{self._packing.seed}:{pool}").shuffle(groups)
        return (Batch.of(group) for group in groups)

    def _too_short(self) -> str:
        window = self._packing.window
        held = len(self._at.carry)
        return (
            f"--data={self._name}: too little text: one pass has {held} tokens, fewer than one "
            f"window of {window}; give more text or a smaller --window"
        )
