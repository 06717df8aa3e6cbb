"""Imports point one way: what a part must not know, it does not load."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dynamax_lm"


def imported(part: str) -> dict[str, set[str]]:
    """Modules named in import statements, for each file of a folder or module."""
    path = PACKAGE / part
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    found: dict[str, set[str]] = {}
    for file in files:
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
        found[str(file.relative_to(PACKAGE))] = names
    return found


@pytest.mark.parametrize(
    ("part", "strangers"),
    [
        ("engine", ("dynamax_lm.heads", "dynamax_lm.settings", "transformers", "lm_eval")),
        ("heads", ("lm_eval",)),
        ("settings", ("dynamax_lm.heads", "dynamax_lm.models", "dynamax_lm.engine", "torch")),
        ("ledger.py", ("torch", "transformers", "lm_eval", "dynamax_lm.heads")),
        ("policy.py", ("dynamax_lm.models", "dynamax_lm.heads", "lm_eval")),
        ("commandline.py", ("dynamax_lm.sweep", "dynamax_lm.headroom", "dynamax_lm.engine")),
        ("sweep", ("dynamax_lm.headroom", "transformers")),
        ("headroom", ("dynamax_lm.sweep", "transformers")),
        ("confidence.py", ("dynamax_lm.models", "dynamax_lm.heads", "lm_eval")),
    ],
)
def test_a_part_knows_no_stranger(part: str, strangers: tuple[str, ...]) -> None:
    for file, names in imported(part).items():
        for name in names:
            known = [s for s in strangers if name == s or name.startswith(f"{s}.")]
            assert not known, f"{file} imports {name}"


@pytest.mark.parametrize(
    "module", ["config.py", "mixer.py", "classifiers.py", "depth.py", "translators.py", "bank.py"]
)
def test_running_heads_needs_no_engine_and_no_settings(module: str) -> None:
    for file, names in imported(f"heads/{module}").items():
        for name in names:
            assert not name.startswith(("dynamax_lm.engine", "dynamax_lm.settings")), file
            assert not name.startswith("dynamax_lm.models"), file
