"""The start-up hook: cheap, out of the way, and there when lm-eval is imported."""

from __future__ import annotations

import json
import logging
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import fresh
import pytest

from dynamax_lm.harness.plugin import bridge, hook

PTH = fresh.ROOT / "dynamax_lm" / "harness" / "plugin" / "dynamax_lm_hook.pth"
START = PTH.with_suffix(".start")

AT_START = f"""
import json, os, sys, __future__
before = set(sys.modules)
exec({PTH.read_text()!r})
loaded = sorted(set(sys.modules) - before)
waiting = [type(finder).__name__ for finder in sys.meta_path].count("Waiter")
print(json.dumps([loaded, waiting]))
"""

AFTER_LM_EVAL = """
import json, sys
from dynamax_lm.harness.plugin.hook import install
install(); install()
import lm_eval.api.registry as registry
early = sorted(set(registry.model_registry) & {"dynamax-mistral", "hf"})
import lm_eval.models
print(json.dumps({
    "waiters": [type(finder).__name__ for finder in sys.meta_path].count("Waiter"),
    "early": early,
    "registered": sorted(name for name in registry.model_registry if "dynamax" in name),
    "stock": "hf" in registry.model_registry and "dummy" in registry.model_registry,
    "loader": type(lm_eval.models.__loader__).__module__,
    "spec": lm_eval.models.__spec__.loader is lm_eval.models.__loader__,
    "heavy": sorted({"torch", "transformers", "datasets"} & set(sys.modules)),
}))
"""


def test_the_startup_line_loads_three_tiny_modules_of_ours_and_nothing_else() -> None:
    """Every start of Python pays for this. ``-S``: no other start-up file has run before."""
    loaded, waiting = fresh.answer_of(AT_START, flags=("-S",))
    assert loaded == [
        "dynamax_lm",
        "dynamax_lm.harness",
        "dynamax_lm.harness.plugin",
        "dynamax_lm.harness.plugin.hook",
    ]
    assert waiting == 1


def test_an_environment_variable_switches_it_off() -> None:
    _, waiting = fresh.answer_of(AT_START, flags=("-S",), DYNAMAX_LM_NO_HOOK="1")
    assert waiting == 0


def test_a_startup_line_without_the_package_is_silent(tmp_path: Path) -> None:
    """An uninstall that was cut short must not break every Python."""
    program = f"import sys, json; sys.path.clear(); exec({PTH.read_text()!r}); print(json.dumps(1))"
    assert fresh.answer_of(program, flags=("-S", "-I")) == 1


def test_both_startup_files_name_the_same_function() -> None:
    """Python 3.15 reads the ``.start`` file and then ignores the ``.pth`` of the same name."""
    assert len(PTH.read_text().splitlines()) == 1, "site runs each line of a .pth by itself"
    module, _, function = START.read_text().strip().partition(":")
    assert module == hook.__name__
    assert f"from {module} import {function}" in PTH.read_text()
    assert callable(getattr(hook, function))


def test_models_come_with_lm_evals_own_and_never_before() -> None:
    """lm-eval loads its own models only into an empty registry: ours must not be first."""
    seen = fresh.answer_of(AFTER_LM_EVAL, DYNAMAX_LM_NO_HOOK="")
    assert seen["early"] == []
    assert seen["registered"] == sorted(bridge.MODELS)
    assert seen["stock"]
    assert seen["waiters"] == 1, "installing twice waits once"


def test_lm_eval_is_loaded_as_if_nobody_watched() -> None:
    seen = fresh.answer_of(AFTER_LM_EVAL, DYNAMAX_LM_NO_HOOK="")
    assert seen["loader"] in ("_frozen_importlib_external", "importlib._bootstrap_external")
    assert seen["spec"]
    assert seen["heavy"] == [], "the models are named, not imported"


@pytest.mark.parametrize("name", ["json", "lm_eval", "lm_eval.models.huggingface", "nowhere"])
def test_the_waiter_finds_nothing_that_it_does_not_watch(name: str) -> None:
    assert hook.Waiter().find_spec(name) is None


def test_a_watched_name_that_nobody_finds_stays_unfound(monkeypatch: pytest.MonkeyPatch) -> None:
    waiter = hook.Waiter()
    monkeypatch.setattr(sys, "meta_path", [waiter])
    assert waiter.find_spec("lm_eval.models") is None


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the test's own that the hook watches."""
    (tmp_path / "watched_by_dynamax.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(hook, "WATCHED", ("watched_by_dynamax",))
    monkeypatch.setattr(sys, "meta_path", [hook.Waiter(), PathFinder])
    monkeypatch.delitem(sys.modules, "watched_by_dynamax", raising=False)
    return "watched_by_dynamax"


def test_the_bridge_is_called_once_the_module_has_run(
    watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(
        bridge, "connect", lambda name: calls.append((name, sys.modules[name].VALUE))
    )
    module = __import__(watched)
    assert calls == [(watched, 3)]
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__


def test_an_lm_eval_that_the_bridge_does_not_fit_runs_on_without_us(
    watched: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise AttributeError(f"{name} has changed")

    monkeypatch.setattr(bridge, "connect", fail)
    with caplog.at_level(logging.WARNING, logger="lm_eval"):
        module = __import__(watched)
    assert isinstance(module, ModuleType)
    assert module.VALUE == 3
    (record,) = caplog.records
    assert "has changed" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_forcing_connects_what_is_loaded_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m dynamax_lm``, or a program that imported lm-eval first."""
    calls: list[str] = []
    monkeypatch.setenv(hook.OFF, "1")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(bridge, "connect", calls.append)
    monkeypatch.setattr(hook, "WATCHED", ("json", "never_imported"))
    hook.install()
    assert calls == [], "the environment says no"
    hook.force()
    assert calls == [json.__name__]
