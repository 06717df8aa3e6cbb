"""The argument ``exit_layers``: the rules that a user can write, and the layers they give."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings.values import as_integer, hint, is_missing, refusal

NAME = "exit_layers"
_FORMS = "give layers as [8,16,24] or 8+16+24, one number, every_4, or latter_half"
_EVERY = re.compile(r"every_(\d{1,9})")


class ExitPlacement(Protocol):
    """Exits before the number of layers is known."""

    def place(self, n_layers: int) -> tuple[int, ...]:
        """The exits of a model of ``n_layers`` >= 2, ascending, each in 1..n_layers-1.

        Raises:
            SettingError: the rule does not fit such a model.
        """
        ...


@dataclass(frozen=True, slots=True)
class Spread:
    """Four exits spread over the latter half, or fewer in a small model; the default."""

    def place(self, n_layers: int) -> tuple[int, ...]:
        """L/2, 5L/8, 6L/8 and 7L/8, rounded down."""
        return tuple(sorted({max(1, n_layers * eighths // 8) for eighths in (4, 5, 6, 7)}))


@dataclass(frozen=True, slots=True)
class LatterHalf:
    """After every layer of the latter half, from L/2 (rounded down)."""

    def place(self, n_layers: int) -> tuple[int, ...]:
        """L/2, L/2 + 1, ... L-1."""
        return tuple(range(max(1, n_layers // 2), n_layers))


@dataclass(frozen=True, slots=True)
class Every:
    """After every ``step`` layers.

    Attributes:
        step: at least 1.
    """

    step: int

    def place(self, n_layers: int) -> tuple[int, ...]:
        """step, 2 step, ... below L."""
        if self.step >= n_layers:
            most = f"a model of {n_layers} layers takes every_1 to every_{n_layers - 1}"
            raise refusal(NAME, f"every_{self.step}", f"no exit lies below full depth; {most}")
        return tuple(range(self.step, n_layers, self.step))


@dataclass(frozen=True, slots=True)
class Listed:
    """Exactly these exits.

    Attributes:
        layers: ascending, distinct, each at least 1.
    """

    layers: tuple[int, ...]

    def place(self, n_layers: int) -> tuple[int, ...]:
        """The layers as they are."""
        for layer in self.layers:
            if layer >= n_layers:
                which = "is full depth" if layer == n_layers else "is beyond the last layer"
                allowed = f"this model has {n_layers} layers, and exits lie in 1..{n_layers - 1}"
                raise refusal(NAME, list(self.layers), f"layer {layer} {which}; {allowed}")
        return self.layers


def read_exit_layers(value: object) -> ExitPlacement:
    """The rule that ``value`` denotes: a number, its text, a list of either, or a rule's name.

    Raises:
        SettingError: none of these, a layer below 1, a layer named twice, or no layer at all.
    """
    if is_missing(value):
        return Spread()
    if isinstance(value, str):
        word = value.strip()
        if word == "latter_half":
            return LatterHalf()
        if every := _EVERY.fullmatch(word):
            return _every(value, int(every[1]))
        return _listed(value, _split(value, word))
    if isinstance(value, Collection) and not isinstance(value, (bytes, bytearray)):
        return _listed(value, tuple(value))
    return _listed(value, (value,))


def _every(value: object, step: int) -> Every:
    if step < 1:
        raise refusal(NAME, value, "a step is at least 1, such as every_4")
    return Every(step)


def _split(value: str, word: str) -> tuple[str, ...]:
    """The layers written in ``word``: ``8``, ``8+16``, ``8,16``, each in brackets or not."""
    bracketed = word[:1] + word[-1:] in {"[]", "()"}
    inner = word[1:-1] if bracketed else word
    pieces = tuple(piece.strip() for piece in re.split(r"[+,]", inner))
    if pieces[-1] == "" and bracketed:  # the text of an empty list, or of a tuple of one
        pieces = pieces[:-1]
    if not all(re.fullmatch(r"[+-]?\d{1,9}", piece) for piece in pieces):
        rules = ("every_4", "latter_half")
        raise refusal(NAME, value, f"not understood; {_FORMS}{hint(word, rules)}")
    return pieces


def _listed(value: object, pieces: tuple[object, ...]) -> Listed:
    layers: list[int] = []
    for piece in pieces:
        layer = as_integer(piece)
        if layer is None:
            raise refusal(NAME, value, f"{_piece(piece)} is not a layer; {_FORMS}")
        if layer < 1:
            raise refusal(NAME, value, f"layers count from 1, got {layer}; {_FORMS}")
        if layer in layers:
            raise refusal(NAME, value, f"layer {layer} is named twice; name each exit once")
        layers.append(layer)
    if not layers:
        raise SettingError(f"{NAME}=[]: names no exit; {_FORMS}, or mode=full for full depth")
    return Listed(tuple(sorted(layers)))


def _piece(piece: object) -> str:
    return " ".join(repr(piece).split())[:40]
