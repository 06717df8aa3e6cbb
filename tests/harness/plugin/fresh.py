"""Runs a few lines in an interpreter of their own, where nothing has been imported yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def answer_of(program: str, *, flags: tuple[str, ...] = (), **environment: str) -> Any:
    """What ``program`` prints last, as JSON.

    Args:
        program: Python source.
        flags: of the interpreter.
        environment: variables to set.
    """
    ran = subprocess.run(
        [sys.executable, *flags, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])
