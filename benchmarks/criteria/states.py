"""Hidden states of a model's own full-depth answers, in memory-mapped files.

Glossary: E exits, N answer tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamax_lm.common.outputs import write_text

Ints = NDArray[np.int64]
_FACTS, _TOKENS = "facts.json", "tokens.npz"


@dataclass(frozen=True)
class States:
    """Full-depth states at every exit, token by token, document by document.

    Attributes:
        layers: the exits, then L.
        hidden: (E + 1, N, D) the residual stream after each of ``layers``.
        document: (N,) which document a token belongs to, ascending from 0.
        position: (N,) where it is emitted: tokens before it in its whole sequence, less one.
        token: (N,) what full depth emits.
        tasks: of each document.
        prompts: token ids of each document's prompt.
        text: (M,) how many of each document's first tokens make its text; the rest make the stop.
    """

    layers: tuple[int, ...]
    hidden: NDArray[Any]
    document: Ints
    position: Ints
    token: Ints
    tasks: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    text: Ints

    @property
    def exits(self) -> tuple[int, ...]:
        """The exits alone."""
        return self.layers[:-1]

    def at(self, number: int, tokens: Any = slice(None)) -> Tensor:
        """(n, D) float32 at exit ``number``, of some tokens."""
        return torch.from_numpy(np.array(self.hidden[number][tokens], dtype=np.float32))

    def answers(self) -> list[tuple[int, ...]]:
        """The full-depth answer of each document."""
        return [
            tuple(self.token[self.document == number].tolist()) for number in range(len(self.tasks))
        ]

    @property
    def of_text(self) -> NDArray[np.bool_]:
        """(N,) whether a token is part of the text, not of the stop alone."""
        first = np.searchsorted(self.document, self.document)
        found: NDArray[np.bool_] = np.arange(len(self.token)) - first < self.text[self.document]
        return found

    def of(self, documents: Sequence[int]) -> States:
        """The states of some documents, ascending, read into memory."""
        chosen = np.isin(self.document, list(documents))
        numbers = np.searchsorted(documents, self.document[chosen])
        return States(
            layers=self.layers,
            hidden=[np.asarray(one)[chosen] for one in self.hidden],  # type: ignore[arg-type]
            document=numbers,
            position=self.position[chosen],
            token=self.token[chosen],
            tasks=tuple(self.tasks[number] for number in documents),
            prompts=tuple(self.prompts[number] for number in documents),
            text=self.text[list(documents)],
        )

    def texts(self) -> States:
        """The documents that have text, without the tokens of their stops, read into memory."""
        kept = np.flatnonzero(self.of_text)
        named, numbers = np.unique(self.document[kept], return_inverse=True)
        return States(
            layers=self.layers,
            hidden=[np.asarray(one)[kept] for one in self.hidden],  # type: ignore[arg-type]
            document=numbers,
            position=self.position[kept],
            token=self.token[kept],
            tasks=tuple(self.tasks[number] for number in named),
            prompts=tuple(self.prompts[number] for number in named),
            text=self.text[named],
        )

    def at_exits(self, exits: Sequence[int]) -> States:
        """The same tokens with some of the exits."""
        kept = [self.layers.index(layer) for layer in (*exits, self.layers[-1])]
        layers = tuple(self.layers[number] for number in kept)
        hidden = [self.hidden[number] for number in kept]
        return replace(self, layers=layers, hidden=hidden)  # type: ignore[arg-type]


def joined(parts: Sequence[States]) -> States:
    """The documents of all ``parts``, which have the same layers, read into memory."""
    begins = np.cumsum([0, *(len(one.tasks) for one in parts)])
    return States(
        layers=parts[0].layers,
        hidden=[  # type: ignore[arg-type] # one array a layer, indexed alike
            np.concatenate([np.asarray(one.hidden[number]) for one in parts])
            for number in range(len(parts[0].layers))
        ],
        document=np.concatenate([p.document + b for p, b in zip(parts, begins, strict=False)]),
        position=np.concatenate([one.position for one in parts]),
        token=np.concatenate([one.token for one in parts]),
        tasks=tuple(task for one in parts for task in one.tasks),
        prompts=tuple(prompt for one in parts for prompt in one.prompts),
        text=np.concatenate([one.text for one in parts]),
    )


class Writer:
    """Takes a batch of answers at a time and puts the folder in place at the end.

    Args:
        folder: to be made.
        layers: the exits, then L.
    """

    def __init__(self, folder: Path, layers: Sequence[int], dtype: str) -> None:
        self._folder, self._layers, self._dtype = folder, tuple(layers), np.dtype(dtype)
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [(folder / f"layer_{layer}.part").open("wb") for layer in layers]
        self._columns: list[list[int]] = [[], [], []]
        self._tasks: list[str] = []
        self._prompts: list[tuple[int, ...]] = []
        self._text: list[int] = []
        self._width = 0

    def add(
        self,
        task: str,
        prompt: Sequence[int],
        tokens: Sequence[int],
        hidden: Sequence[Tensor],
        text: int,
    ) -> None:
        """One answer: ``hidden`` holds (T, D) after each of the layers; ``text`` of T are text."""
        number = len(self._tasks)
        self._tasks.append(task)
        self._prompts.append(tuple(prompt))
        self._text.append(text)
        for place, token in enumerate(tokens):
            row = (number, len(prompt) - 1 + place, token)
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
        for file, states in zip(self._files, hidden, strict=True):
            self._width = states.shape[1]
            file.write(states.float().numpy().astype(self._dtype).tobytes())

    def close(self, **about: Any) -> States:
        """Finish the folder; the facts are written last, and mark it complete."""
        for file, layer in zip(self._files, self._layers, strict=True):
            file.close()
            Path(file.name).replace(self._folder / f"layer_{layer}.bin")
        document, position, token = (np.array(column) for column in self._columns)
        np.savez(self._folder / _TOKENS, document=document, position=position, token=token)
        facts = about | {
            "layers": self._layers,
            "width": self._width,
            "dtype": self._dtype.name,
            "tasks": self._tasks,
            "prompts": self._prompts,
            "text": self._text,
        }
        write_text(self._folder / _FACTS, json.dumps(facts))
        return read(self._folder)


def complete(folder: Path) -> bool:
    """Whether ``folder`` holds finished states."""
    return (folder / _FACTS).is_file()


def facts(folder: Path) -> dict[str, Any]:
    """The facts written with the states."""
    found: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return found


def read(folder: Path) -> States:
    """Open a finished folder; states stay on disk until they are read."""
    about = facts(folder)
    tokens = np.load(folder / _TOKENS)
    count = len(tokens["token"])
    files = [
        np.memmap(folder / f"layer_{layer}.bin", about["dtype"], "r", shape=(count, about["width"]))
        for layer in about["layers"]
    ]
    return States(
        layers=tuple(about["layers"]),
        hidden=files,  # type: ignore[arg-type] # one file a layer, indexed alike
        document=tokens["document"],
        position=tokens["position"],
        token=tokens["token"],
        tasks=tuple(about["tasks"]),
        prompts=tuple(tuple(prompt) for prompt in about["prompts"]),
        text=np.array(about["text"]),
    )
