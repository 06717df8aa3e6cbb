"""The points of a sweep: the product of thresholds and other arguments, and single points.

This module parses grids and names their points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.command_line import read_value, split_values

_MOST = 10_000
_RUN_OPTIONS = frozenset({"batch_size", "max_batch_size", "device", "trace_dir"})
"""Arguments that change no number."""


@dataclass(frozen=True)
class Point:
    """One setting of the sweep.

    Attributes:
        settings: (name, value) of each varied argument, in the order of the command.
    """

    settings: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """The setting as a folder's name, such as ``threshold=0.9,skipped_state=freeze``."""
        text = ",".join(f"{name}={show(value)}" for name, value in self.settings)
        return re.sub(r"[^\w.+=,-]", "_", text)

    def model_args(self, given: dict[str, Any]) -> dict[str, Any]:
        """The model arguments of a separate run of this point."""
        return {**given, **dict(self.settings)}


def read_grid(
    thresholds: str | None, vary: Sequence[str], single: Sequence[str] = ()
) -> list[Point]:
    """The points of a sweep: the product of everything varied, thresholds fastest, and others.

    Args:
        thresholds: ``0.5:1.0:0.05`` (both ends included), or values at commas.
        vary: each ``name=value,value``.
        single: further points, each ``name=value,name=value``.

    Raises:
        SettingError: nothing to vary, a name varied twice, or a value that cannot be read.
    """
    axes = [_read_axis(text) for text in vary]
    if thresholds is not None:
        axes.append(("threshold", read_thresholds(thresholds)))
    if not axes and not single:
        raise SettingError(
            "nothing to sweep: give --thresholds 0.5:1.0:0.05, --vary name=value,value or --point"
        )
    names = [name for name, _ in axes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        also = " (--thresholds varies it already)" if twice == "threshold" else ""
        raise SettingError(f"--vary {twice}: varied twice{also}; give all its values at once")
    points = [
        Point(tuple(zip(names, values, strict=True)))
        for values in product(*(values for _, values in axes))
        if axes
    ]
    points += [_read_point(text) for text in single]
    if len({point.name for point in points}) < len(points):
        raise SettingError("a setting occurs twice in the grid; name each value once")
    return points


def read_thresholds(text: str) -> list[Any]:
    """Thresholds of a range or a list, in the order given.

    Raises:
        SettingError: no numbers, a step of 0 or in the wrong direction, or too many points.
    """
    if ":" not in text:
        return _values("--thresholds", text)
    parts = text.split(":")
    how = "give start:stop:step, such as 0.5:1.0:0.05"
    if len(parts) != 3:
        raise SettingError(f"--thresholds {text}: {how}")
    try:
        start, stop, step = (Decimal(part.strip()) for part in parts)
    except InvalidOperation:
        raise SettingError(f"--thresholds {text}: not three numbers; {how}") from None
    if not all(number.is_finite() for number in (start, stop, step)):
        raise SettingError(f"--thresholds {text}: not finite; {how}")
    if step <= 0 or stop < start:
        raise SettingError(f"--thresholds {text}: the step leads nowhere; {how}")
    if stop - start >= _MOST * step:
        raise SettingError(f"--thresholds {text}: more than {_MOST} points; give a larger step")
    count = int((stop - start) / step) + 1
    return [float(start + number * step) for number in range(count)]


def show(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, (list, tuple)):
        return "+".join(show(one) for one in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_point(text: str) -> Point:
    settings: dict[str, Any] = {}
    for piece in split_values(text):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not name or not value or name in settings:
            raise SettingError(
                f"--point {text}: give name=value,name=value, such as threshold=0,exit_layers=8"
            )
        _refuse_run_option("--point", name)
        settings[name] = read_value(value)
    return Point(tuple(settings.items()))


def _read_axis(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise SettingError(f"--vary {text}: give name=value,value, such as confidence=margin,head")
    _refuse_run_option("--vary", name)
    return name, _values(f"--vary {name}", values)


def _refuse_run_option(option: str, name: str) -> None:
    if name in _RUN_OPTIONS:
        raise SettingError(f"{option} {name}: it changes no number; give it in --model_args")


def _values(option: str, text: str) -> list[Any]:
    """Values at commas outside brackets, each read as lm-eval reads model arguments."""
    pieces = split_values(text)
    if not pieces or not all(pieces):
        raise SettingError(f"{option} {text}: no value; give one or more, at commas")
    return [read_value(piece) for piece in pieces]
