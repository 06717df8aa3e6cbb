"""What lm-eval knows once the bridge has connected: our models, tasks and tags."""

from __future__ import annotations

import importlib
import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from lm_eval.api.registry import get_model, model_registry
from lm_eval.tasks import TaskManager, _yaml_loader

from dynamax_lm.harness.plugin import bridge, task_folder
from dynamax_lm.harness.plugin.squad_metrics_shim import LastResort

ROOT = Path(__file__).resolve().parents[3]
STOCK = Path(lm_eval.tasks.__file__).parent


@pytest.fixture(autouse=True, scope="module")
def _connected() -> None:
    """Where the package is not installed, no hook has run."""
    importlib.import_module("lm_eval.models")
    bridge.connect("lm_eval.models")
    bridge.connect("lm_eval.tasks")


@pytest.fixture(scope="module")
def everything() -> TaskManager:
    """All that a user's ``TaskManager()`` sees; it reads some ten thousand files."""
    return TaskManager()


@pytest.mark.parametrize("name", sorted(bridge.MODELS))
def test_a_model_is_had_by_its_name(name: str) -> None:
    cls = get_model(name)
    assert f"{cls.__module__}:{cls.__qualname__}" == bridge.MODELS[name], (
        "lm-eval accepts a class for a name only from the module that defines it"
    )


def test_the_entry_points_are_what_the_bridge_registers() -> None:
    """lm-eval's next release scans them; both ways must name the same classes."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared == {"lm_eval.models": bridge.MODELS}


def test_a_name_that_is_taken_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_model("hf")
    monkeypatch.setattr(bridge, "MODELS", {"hf": "nowhere:Nothing", **bridge.MODELS})
    bridge.register_models()
    assert get_model("hf") is before
    assert set(bridge.MODELS) <= set(model_registry)


def test_connecting_twice_changes_nothing() -> None:
    loader, init, finders = _yaml_loader._Base, TaskManager.__init__, list(sys.meta_path)
    bridge.connect("lm_eval.models")
    bridge.connect("lm_eval.tasks")
    assert _yaml_loader._Base is loader
    assert TaskManager.__init__ is init
    assert sys.meta_path == finders
    (last,) = (n for n, finder in enumerate(finders) if isinstance(finder, LastResort))
    assert last > finders.index(PathFinder), "a real module wins"


def own_names() -> set[str]:
    """Every task and group that our folder defines."""
    alone = TaskManager(include_path=str(task_folder.TASKS), include_defaults=False)
    return set(alone.all_tasks)


def test_ours_are_found_without_being_asked_for(everything: TaskManager) -> None:
    for name in own_names():
        path = everything.task_index[name].yaml_path
        assert path is not None
        assert task_folder.TASKS in path.parents


def test_no_stock_name_is_shadowed(everything: TaskManager) -> None:
    own = own_names()
    assert len(own) == 14, "twelve tasks and two groups"
    assert all(name.startswith("dynamax") for name in own)
    for name in set(everything.all_tasks) - own:
        path = everything.task_index[name].yaml_path
        assert path is None or STOCK in path.parents


def test_a_stock_tag_means_the_stock_tasks_alone(everything: TaskManager) -> None:
    tagged = everything.task_index["truthfulqa"].tags
    assert tagged
    assert not tagged & own_names()


def test_a_users_own_folder_wins_over_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(
        "task: dynamax_coqa\ninclude: !stock_task coqa/default.yaml"
    )
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "none" / "manager.py"))
    for given in (str(tmp_path), tmp_path, [tmp_path], (str(tmp_path),)):
        manager = TaskManager(include_path=given)
        assert manager.task_index["dynamax_coqa"].yaml_path == tmp_path / "mine.yaml"
        assert "dynamax_triviaqa" in manager.all_tasks
        assert manager.include_path == given, "lm-eval prints what the user gave"


def test_without_the_stock_tasks_ours_are_left_out_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: mine\noutput_type: generate_until\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert manager.all_tasks == ["mine"]


def test_the_tags_name_stock_files_and_our_records(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("a: !stock_task coqa/default.yaml\nb: !sample coqa/sample.jsonl\n")
    read: dict[str, Any] = _yaml_loader.load_yaml(file)
    assert Path(read["a"]) == STOCK / "coqa" / "default.yaml"
    assert Path(read["b"]) == task_folder.TASKS / "coqa" / "sample.jsonl"
    assert all(Path(path).is_file() for path in read.values())


def test_the_tags_hold_for_lm_evals_files_alone() -> None:
    """Other users of yaml in the same process are left as they were."""
    for loader in (yaml.SafeLoader, yaml.FullLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        with pytest.raises(yaml.constructor.ConstructorError, match="stock_task"):
            yaml.load("a: !stock_task coqa/default.yaml", Loader=loader)


def test_our_tasks_alone_are_what_they_are_among_all(everything: TaskManager) -> None:
    own = own_names()
    assert task_folder.only_ours(own)
    assert not task_folder.only_ours({*own, "coqa"})
    assert not task_folder.only_ours({"dynamax_*"}), "a pattern may match stock tasks"
    assert not task_folder.only_ours([])
    with task_folder.without_stock_tasks():
        alone = TaskManager()
    assert set(alone.all_tasks) == own
    for name in own:
        assert alone.task_index[name] == everything.task_index[name]
        members = alone.task_index[name].cfg["task"]
        assert {members} <= own if isinstance(members, str) else set(members) <= own
