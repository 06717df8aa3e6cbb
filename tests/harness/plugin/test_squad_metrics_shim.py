"""The stand-in module: there where transformers has none, and only then."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from dynamax_lm.harness.plugin import squad_metrics
from dynamax_lm.harness.plugin.squad_metrics_shim import LastResort

PACKAGE = "transformers.data.metrics"
MODULE = f"{PACKAGE}.squad_metrics"


@pytest.fixture
def _unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported the module yet."""
    importlib.import_module("transformers.data")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, LastResort()])
    for name in (MODULE, PACKAGE):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in (MODULE, PACKAGE):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_unloaded")
def test_the_module_imports_the_way_that_stock_coqa_does() -> None:
    module = importlib.import_module(MODULE)
    assert module.compute_f1("the cat sat", "a cat") == pytest.approx(2 / 3)
    assert module.compute_exact("The cat.", "cat") == 1


@pytest.mark.usefixtures("_unloaded")
def test_a_real_module_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "squad_metrics.py").write_text("REAL = True\n")
    data = importlib.import_module("transformers.data")
    monkeypatch.setattr(data, "__path__", [str(tmp_path)])
    assert importlib.import_module(MODULE).REAL


@pytest.mark.parametrize(
    "name", ["transformers.data", "transformers.data.metrics.glue", "squad_metrics", "torch"]
)
def test_nothing_else_is_found(name: str) -> None:
    assert LastResort().find_spec(name) is None


def test_it_runs_our_file() -> None:
    spec = LastResort().find_spec(MODULE)
    assert spec is not None
    assert spec.origin == squad_metrics.__file__
