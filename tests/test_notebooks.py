"""The notebooks run from their first cell to their last."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Execute the code cells; the variables, and the value that each cell would show."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    variables: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "outputs are not committed"
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), variables)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), variables))
    return variables, shown


def test_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables, (settings, answer, _, grid) = run(FOLDER / "first_look.ipynb")
    assert settings.threshold == 0.6
    assert "layers used" in answer._repr_html_()
    assert grid._repr_png_()
    layers = [one for _, one, _ in variables["curve"]]
    agreement = [one for _, _, one in variables["curve"]]
    assert layers[-1] == variables["model"].n_layers > layers[0]
    assert agreement[-1] == 1 > agreement[0]


def test_own_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables, shown = run(FOLDER / "own_measure.ipynb")
    assert all(0 <= area <= 1 for area in variables["areas"].values())
    own, top = (variables["grids"][name] for name in (variables["ours"], "top_prob"))
    assert (own.confidence >= top.confidence - 1e-6).all()
    assert (tmp_path / "measures.png").stat().st_size
    assert "layers used" in shown[-1]._repr_html_()


def test_the_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = (FOLDER.parent / "docs" / "play.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "play.md", "exec"), {})
    assert capsys.readouterr().out.strip()
