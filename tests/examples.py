"""The examples of CONTRIBUTING.md as files, or as an installed package, and commands over toys."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.common.extensions import installed
from dynamax_lm.report.__main__ import main as report

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
TOYS = Path(__file__).parent / "harness" / "toys"


def write_examples(folder: Path) -> list[str]:
    """The examples' files; their names."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    for name, code in found:
        (folder / name).write_text(code, encoding="utf-8")
    return [name for name, _ in found]


def install_examples(
    folder: Path, groups: dict[str, dict[str, str]], patch: pytest.MonkeyPatch
) -> None:
    """The examples as modules of an installed package with entry points.

    Args:
        folder: of the package, empty.
        groups: for each group of entry points, names and ``module:object``.
        patch: takes the package away again.
    """
    names = write_examples(folder)
    info = folder / "examples-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: examples\nVersion: 1.0\n")
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    patch.syspath_prepend(folder)
    importlib.invalidate_caches()
    for name in names:
        patch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    installed.cache_clear()


def options(checkpoint: Path, *more: str, **given: str) -> list[str]:
    arguments = "".join(f",{name}={value}" for name, value in given.items())
    return [
        *("--model", "dynamax-mistral", "--include_path", str(TOYS), "--device", "cpu"),
        *("--model_args", f"pretrained={checkpoint},dtype=float32,exit_layers=1+2+3{arguments}"),
        *("--batch_size", "4", "--gen_kwargs", "max_gen_toks=6", "--output_path", "out", *more),
    ]


def blocks(folder: Path) -> dict[str, dict[str, Any]]:
    """The ``early_exit`` block of each point, by the point's name."""
    found = {}
    for note in folder.glob("out/*/*/point.json"):
        results = note.parent / json.loads(note.read_text())["results"]
        found[note.parent.name] = json.loads(results.read_text())["config"]["early_exit"]
    return found


def verified(capsys: pytest.CaptureFixture[str]) -> None:
    """The sweep in ``out``, up to what code from outside computed."""
    capsys.readouterr()
    assert report(["out", "--verify"]) == 0
    said = capsys.readouterr().out
    assert " 0 do not match" in said
    assert "code from outside the package is not run to verify" in said
