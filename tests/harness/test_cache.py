"""lm-eval's response cache: a warm one reports the same, a foreign one is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_model import ToyExits, ToyPlain

from dynamax_lm.common.errors import SettingError

Evaluate = Callable[..., dict[str, Any]]

TASKS = ("toy_gen", "toy_mc", "toy_ll", "toy_rolling", "toy_bleu", "toy_repeats")


def test_a_warm_cache_reports_the_same_and_asks_nothing(evaluate: Evaluate, tmp_path: Path) -> None:
    cold_model, warm_model = ToyExits(), ToyExits()
    cold = evaluate(*TASKS, model=cold_model, use_cache=str(tmp_path / "c"))
    warm = evaluate(*TASKS, model=warm_model, use_cache=str(tmp_path / "c"))
    assert warm["results"] == cold["results"]
    assert warm["config"]["early_exit"] == cold["config"]["early_exit"]
    # Only sampled answers are made again: lm-eval never caches them.
    assert cold_model.answered > warm_model.answered == 3 * 7


def test_a_cache_may_be_completed(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate("toy_mc", limit=3, use_cache=str(tmp_path / "c"))
    mixed = evaluate("toy_mc", use_cache=str(tmp_path / "c"))
    assert mixed["results"] == evaluate("toy_mc")["results"]


@pytest.mark.parametrize("limit", [3, None], ids=["mixed", "all stale"])
@pytest.mark.parametrize("task", TASKS[:-1])
def test_a_cache_of_other_settings_is_refused_before_anything_is_computed(
    evaluate: Evaluate, tmp_path: Path, limit: int | None, task: str
) -> None:
    evaluate(task, limit=limit, use_cache=str(tmp_path / "c"))
    other = ToyExits(threshold=0.5)
    with pytest.raises(SettingError, match=r"other settings.*--use_cache another path"):
        evaluate(task, model=other, use_cache=str(tmp_path / "c"))
    assert other.answered == 0


@pytest.mark.parametrize("limit", [3, None], ids=["mixed", "all"])
def test_a_cache_of_another_model_is_refused(
    evaluate: Evaluate, tmp_path: Path, limit: int | None
) -> None:
    evaluate("toy_mc", model=ToyPlain(), limit=limit, use_cache=str(tmp_path / "c"))
    with pytest.raises(SettingError, match="another model"):
        evaluate("toy_mc", use_cache=str(tmp_path / "c"))


def test_another_models_cache_is_its_own_business(evaluate: Evaluate, tmp_path: Path) -> None:
    exits = ToyExits()
    cold = evaluate("toy_mc", model=ToyPlain(), use_cache=str(tmp_path / "c"))
    warm = evaluate("toy_mc", model=ToyPlain(), use_cache=str(tmp_path / "c"))
    assert cold["results"] == warm["results"]
    assert exits.answered == 0


@pytest.mark.parametrize("task", TASKS[:-1])
def test_another_model_is_never_given_answers_of_early_exits(
    evaluate: Evaluate, tmp_path: Path, task: str
) -> None:
    evaluate(task, use_cache=str(tmp_path / "c"))
    alone = evaluate(task, model=ToyPlain())
    shared = evaluate(task, model=ToyPlain(), use_cache=str(tmp_path / "c"))
    assert shared["results"] == alone["results"]


def test_a_cache_that_both_models_filled_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate("toy_mc", use_cache=str(tmp_path / "c"))
    evaluate("toy_mc", model=ToyPlain(), use_cache=str(tmp_path / "c"))
    with pytest.raises(SettingError, match="another model"):
        evaluate("toy_mc", use_cache=str(tmp_path / "c"))


def test_a_cache_under_the_keys_of_earlier_versions_is_refused(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    evaluate("toy_mc", use_cache=str(tmp_path / "c"))
    (path,) = tmp_path.glob("*.db")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE unnamed SET key = substr(key, length('dynamax_lm ') + 1)")
    with pytest.raises(SettingError, match="another version"):
        evaluate("toy_mc", use_cache=str(tmp_path / "c"))


def test_answers_that_a_temperature_draws_are_not_kept(evaluate: Evaluate, tmp_path: Path) -> None:
    """lm-eval's cache looks at ``do_sample`` alone, and a temperature draws as well."""
    model = ToyExits()
    with pytest.raises(SettingError, match=r"temperature=0\.7.*do_sample=true"):
        evaluate(
            "toy_open",
            model=model,
            gen_kwargs={"temperature": 0.7},
            use_cache=str(tmp_path / "c"),
        )
    assert model.answered == 0


def test_a_cache_of_an_earlier_version_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    """Its records are pickled under modules that have moved since."""
    evaluate("toy_mc", use_cache=str(tmp_path / "c"))
    (path,) = tmp_path.glob("*.db")
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT key, value FROM unnamed").fetchall()
        assert all(b"dynamax_lm.core.trace" in value for _, value in rows)
        moved = [
            (value.replace(b"dynamax_lm.core.trace", b"dynamax_lm.gone.trace"), key)
            for key, value in rows
        ]
        db.executemany("UPDATE unnamed SET value = ? WHERE key = ?", moved)
    model = ToyExits()
    with pytest.raises(SettingError, match=r"another version.*delete its \.db file"):
        evaluate("toy_mc", model=model, use_cache=str(tmp_path / "c"))
    assert model.answered == 0
