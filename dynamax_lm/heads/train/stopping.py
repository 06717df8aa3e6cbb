"""Signals that stop a head training after its current step."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Stopped(Exception):  # noqa: N818 - not an error: the run can be resumed
    """A signal asked the run to stop; its checkpoint is written."""

    def __init__(self, number: int, step: int, folder: Path) -> None:
        self.number = number
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}; the same command goes on from {folder}"
        )


@contextmanager
def stop_signals() -> Iterator[Sequence[int]]:
    """Signals received; the loop stops after its current step."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, note)
    except ValueError:  # not the main thread: a program that embeds training handles its signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
