"""A command's peak memory is its own, not that of the process that measures it."""

from __future__ import annotations

import resource
import sys

import pytest

from dynamax_lm.bench.runs import peak_resident

MIB = 1 << 20


def test_a_commands_peak_is_its_own() -> None:
    held = bytearray(150 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    small = peak_resident([sys.executable, "-c", "pass"])
    large = peak_resident([sys.executable, "-c", f"len(b'x' * {64 * MIB})"])
    assert small < here / 2
    assert 60 * MIB < large - small < 70 * MIB


def test_what_a_command_that_fails_says_is_shown() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        peak_resident([sys.executable, "-c", "raise SystemExit('no such thing')"])
