"""The table at the end of a sweep: one row for each task and setting.

This module selects the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.report.columns import COLUMNS
from dynamax_lm.sweep.grid import show

if TYPE_CHECKING:
    from dynamax_lm.sweep.run import Outcome

_KEYS = {column.key: column.sweep for column in COLUMNS if column.sweep}
_SPEED = "Speed"
"""Heading of the decoding speed of lossless points, as a multiple of full depth's."""


def sweep_table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table with the task's first metric, and the same at full depth.

    Where a point is lossless, the tokens per second of each such point over full depth's are a
    column too; they are those of the whole run, as measured on some of its documents.
    """
    names = list(dict.fromkeys(name for one in outcomes for name, _ in one.point.settings))
    own = [{name: show(value) for name, value in one.point.settings} for one in outcomes]
    tasks = list(dict.fromkeys(task for one in outcomes for task in one.results["configs"]))
    speeds = [_number(_speed(one.results)) for one in outcomes]
    timed = any(speeds)
    rows = [
        [
            task,
            *(settings.get(name, "") for name in names),
            *_row(one.results, task),
            *([speed] if timed else []),
            one.how,
        ]
        for task in tasks
        for one, settings, speed in zip(outcomes, own, speeds, strict=True)
    ]
    shown = [*_KEYS.values(), *([_SPEED] if timed else [])]
    headers = ["Task", *names, "Metric", "Value", "Full depth", *shown, "Point"]
    return markdown_table(headers, rows)


def _row(results: Mapping[str, Any], task: str) -> list[str]:
    values = _plain(results["results"].get(task, {}))
    metric = _main_metric(results["configs"][task], values)
    cells = [metric, _number(values.get(metric)), _number(values.get(f"full_depth_{metric}"))]
    return [*cells, *(_number(values.get(key)) for key in _KEYS)]


def _speed(results: Mapping[str, Any]) -> float | None:
    """Of lossless decoding over full depth; ``None`` where the run did not measure it."""
    block = results.get("config", {}).get("early_exit") or {}
    speed: float | None = (block.get("speed") or {}).get("speedup")
    return speed


def _plain(reported: Mapping[str, Any]) -> dict[str, Any]:
    """Values under the first filter that has them, without standard errors."""
    values: dict[str, Any] = {}
    for key, value in reported.items():
        name, comma, _ = key.partition(",")
        if comma and not name.endswith("_stderr"):
            values.setdefault(name, value)
    return values


def _main_metric(config: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    listed = [str(entry["metric"]) for entry in config.get("metric_list") or ()]
    own = [
        name
        for name in values
        if name not in HIGHER_IS_BETTER and not name.startswith("full_depth_")
    ]
    return next((name for name in [*listed, *own] if name in values), "")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else ""
