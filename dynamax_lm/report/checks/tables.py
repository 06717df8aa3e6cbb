"""Checks of lm-eval's tables by task against each other.

These are versions, few-shot counts, directions, document counts, groups and hashes of prompts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dynamax_lm.common.validation import is_finite
from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX
from dynamax_lm.report.runs import MetricKey, Run

_BY_TASK = ("configs", "versions", "n-shot", "higher_is_better", "n-samples")


def check_tables(run: Run, found: Verification) -> None:
    """Every table of a results file whose values are also in another one."""
    tasks = set((run.data.get("configs") or {}).keys())
    groups = set(run.data.get("group_subtasks") or ())
    for table in _BY_TASK:
        found.compare(
            f"{run.path} {table} tasks",
            sorted(set(run.data.get(table) or ()) & tasks - groups),
            sorted(tasks),
        )
    found.compare(
        f"{run.path} results tasks",
        sorted(set(run.data["results"]) - groups),
        sorted(tasks),
    )
    for task in sorted(tasks):
        _check_task(run, task, found)
    for group in sorted(set(run.data.get("group_subtasks") or ())):
        _check_group(run, group, found)
    _check_names(run, found)


def _check_task(run: Run, task: str, found: Verification) -> None:
    where = f"{run.path} {task}"
    config: Mapping[str, Any] = run.of_task("configs", task) or {}
    numbers = run.data["results"].get(task) or {}
    found.compare(f"{where} configs task", config.get("task"), task)
    found.compare(f"{where} name", numbers.get("name"), task)
    found.compare(f"{where} alias", numbers.get("alias"), config.get("task_alias") or task)
    version = (config.get("metadata") or {}).get("version", "Yaml")  # lm-eval's own default
    found.compare(f"{where} versions", run.of_task("versions", task), version)
    found.compare(f"{where} n-shot", run.of_task("n-shot", task), config.get("num_fewshot") or 0)
    given = run.config.get("model_args")
    for name, value in (config.get("metadata") or {}).items():
        if isinstance(given, Mapping) and name in given:
            found.compare(f"{where} configs metadata {name}", value, given[name])
    _check_directions(run, task, config, found)
    counted = run.of_task("n-samples", task)
    if isinstance(counted, Mapping):
        original, limit = counted.get("original"), run.config.get("limit")
        found.compare(f"{where} sample_len", numbers.get("sample_len"), counted.get("effective"))
        if is_finite(original):
            again = original if limit is None else _limited(original, limit)
            found.compare(f"{where} n-samples", counted.get("effective"), again)


def _limited(original: float, limit: Any) -> int:
    """Number of documents under a limit: a share of them below 1, else a number."""
    if not is_finite(limit):
        return -1
    most = math.ceil(original * limit) if limit < 1 else int(limit)
    return min(int(original), most)


def _check_directions(run: Run, task: str, config: Mapping[str, Any], found: Verification) -> None:
    """The direction of each metric: added ones by definition, a task's own by configuration."""
    listed = {
        str(one.get("metric")): one.get("higher_is_better")
        for one in config.get("metric_list") or ()
        if isinstance(one, Mapping)
    }
    directions = run.of_task("higher_is_better", task) or {}
    for metric, better in directions.items():
        own = metric.removeprefix(FULL_DEPTH_PREFIX)
        wanted = HIGHER_IS_BETTER.get(metric, listed.get(own))
        if wanted is not None or metric in HIGHER_IS_BETTER:
            found.compare(f"{run.path} {task} higher_is_better {metric}", better, wanted)
    for key in run.values(task):
        metric = key.metric
        found.require(
            metric in directions or HIGHER_IS_BETTER.get(metric, True) is None,
            f"{run.path} {task} higher_is_better: {metric} is not there",
        )


def _check_group(run: Run, group: str, found: Verification) -> None:
    """A group's numbers are in two tables, and its members are tasks or groups of the file."""
    where = f"{run.path} group {group}"
    members = (run.data.get("group_subtasks") or {}).get(group) or ()
    for member in members:
        found.require(
            member in run.data["results"] or run.is_group(member),
            f"{where}: its member {member!r} is not in the results",
        )
    twice = (run.data.get("groups") or {}).get(group)
    if twice is None:
        return
    numbers = run.data["results"].get(group) or {}
    found.compare_exactly(f"{where} groups", twice, numbers)
    found.compare(f"{where} name", numbers.get("name"), group)
    leaves = leaves_of(run, group)
    sample_counts = numbers.get("sample_count") or {}
    for key in run.values(group) if sample_counts else ():
        name = f"{key.metric},{key.filter}"
        found.require(name in sample_counts, f"{where} sample_count {name}: missing")
    for name, count in sample_counts.items():
        metric, _, filter_name = name.partition(",")
        key = MetricKey(metric, filter_name)
        sizes = [run.documents(task) or 0 for task in leaves if key in run.values(task)]
        found.compare(f"{where} sample_count {name}", count, sum(sizes))
    counts = [run.documents(task) or 0 for task in leaves]
    if "sample_len" in numbers:
        found.compare(f"{where} sample_len", numbers["sample_len"], sum(counts))
    shots = {run.of_task("n-shot", task) for task in leaves}
    if len(shots) == 1 and run.of_task("n-shot", group) is not None:
        found.compare(f"{where} n-shot", run.of_task("n-shot", group), shots.pop())
    _check_group_directions(run, group, leaves, found)


def _check_group_directions(
    run: Run, group: str, leaves: Sequence[str], found: Verification
) -> None:
    """A group has the directions of all of its tasks, where those agree."""
    where = f"{run.path} group {group} higher_is_better"
    directions = run.of_task("higher_is_better", group)
    if directions is None:
        return
    said: dict[str, set[Any]] = {}
    for task in leaves:
        for metric, better in (run.of_task("higher_is_better", task) or {}).items():
            said.setdefault(metric, set()).add(better)
    found.compare(where, sorted(directions), sorted(said))
    for metric, ways in said.items():
        if len(ways) == 1:
            found.compare(f"{where} {metric}", directions.get(metric), ways.pop())


def leaves_of(run: Run, group: str) -> list[str]:
    """The tasks of a group, of its groups too, each once."""
    leaves: dict[str, None] = {}
    pending, seen = [group], {group}
    while pending:
        for child in (run.data.get("group_subtasks") or {}).get(pending.pop()) or ():
            if not run.is_group(child):
                leaves[child] = None
            elif child not in seen:
                seen.add(child)
                pending.append(child)
    return list(leaves)


def _check_names(run: Run, found: Verification) -> None:
    """Names and hashes that follow from others in the same file."""
    name = run.data.get("model_name")
    if isinstance(name, str):
        found.compare(
            f"{run.path} model_name_sanitized",
            run.data.get("model_name_sanitized"),
            re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name),
        )
    for text in ("system_instruction", "chat_template"):
        value = run.data.get(text)
        again = hashlib.sha256(value.encode()).hexdigest() if isinstance(value, str) else None
        there = text in run.data and f"{text}_sha" in run.data
        found.require(there, f"{run.path}: {text} or its hash is missing")
        found.compare(f"{run.path} {text}_sha", run.data.get(f"{text}_sha"), again)
