"""Groups average our keys wherever they average anything."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.utils import make_table
from toy_model import ToyExits, ToyPlain

from dynamax_lm.core.totals import NOISE
from dynamax_lm.harness.groups import _extra_metrics

Evaluate = Callable[..., dict[str, Any]]


def test_a_group_weighs_its_tasks_by_size(evaluate: Evaluate) -> None:
    results = evaluate("toy_group")
    tasks, group = results["results"], results["results"]["toy_group"]
    sizes = {"toy_mc": 7, "toy_mc_few": 4, "toy_rolling": 7}
    for key in ("layers_used", "flops_saved", "flops_saved_total", "agreement"):
        weighed = sum(tasks[task][f"{key},none"] * n for task, n in sizes.items())
        assert group[f"{key},none"] == pytest.approx(weighed / sum(sizes.values()))
        assert group[f"{key}_stderr,none"] > 0


def test_keys_that_some_tasks_lack_are_averaged_over_the_others(evaluate: Evaluate) -> None:
    results = evaluate("toy_group")
    tasks, group = results["results"], results["results"]["toy_group"]
    for key in ("consistency", "full_depth_acc", "acc"):
        weighed = 7 * tasks["toy_mc"][f"{key},none"] + 4 * tasks["toy_mc_few"][f"{key},none"]
        assert group[f"{key},none"] == pytest.approx(weighed / 11)
    assert "full_depth_word_perplexity,none" not in group


def test_noise_is_averaged_where_every_task_has_it(evaluate: Evaluate) -> None:
    loud = evaluate("toy_group", model=ToyExits(noise=0.3))["results"]
    names = ("toy_mc", "toy_mc_few", "toy_rolling")
    shown = [f"{NOISE},none" in loud[task] for task in names]
    assert any(shown)
    assert (f"{NOISE},none" in loud["toy_group"]) == all(shown)
    assert f"{NOISE},none" not in evaluate("toy_group")["results"]["toy_group"]


def test_a_group_of_quiet_and_noisy_tasks_has_no_average() -> None:
    tasks = [SimpleNamespace(task_name=name) for name in ("loud", "quiet")]
    group = SimpleNamespace(get_all_tasks=lambda: tasks, aggregate_metric_list=[])
    loud = {f"{NOISE},none": 0.1, "agreement,none": 0.9}
    both = {"loud": loud, "quiet": {"agreement,none": 1.0}}
    metrics = {one.metric for one in _extra_metrics(group, both)}
    assert metrics == {"agreement"}
    everywhere = _extra_metrics(group, {"loud": loud, "quiet": loud})
    assert {one.metric for one in everywhere} == {"agreement", NOISE}


def test_the_group_table_has_the_rows(evaluate: Evaluate) -> None:
    results = evaluate("toy_group")
    table = make_table(results, "groups")
    for row in ("layers_used", "flops_saved", "agreement", "consistency", "full_depth_acc"):
        assert f"|{row} " in table or f"|{row}|" in table
    assert results["higher_is_better"]["toy_group"]["layers_used"] is False


def test_a_group_that_averages_nothing_stays_a_heading(evaluate: Evaluate) -> None:
    results = evaluate("toy_folder")
    assert "groups" not in results
    assert set(results["results"]["toy_folder"]) == {"alias", "name"}


def test_another_models_groups_are_left_as_they_were(evaluate: Evaluate) -> None:
    group = evaluate("toy_group", model=ToyPlain())["results"]["toy_group"]
    assert {key for key in group if "," in key} == {"acc,none", "acc_stderr,none"}
