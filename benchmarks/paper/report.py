"""The experiment's table and plot, from the results of its points alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamax_lm.common.plots import BLACK, LIGHT_GREY, PURPLE, RED, new_figure, save_figure

Row = Mapping[str, Any]

_OURS = ("layers_used", "flops_saved", "agreement", "consistency")
_LOOKS = {"linear": (BLACK, "o"), "ffn": (PURPLE, "s"), "mamba": (RED, "^")}
_DASHES = {"propagate": "-", "copy_kv": "--", "freeze": "--", "recompute": ":"}


def rows(point: Row) -> Iterator[dict[str, Any]]:
    """One row per task of a point's results file."""
    for task, found in point["results"].items():
        row = {name: point[name] for name in ("backbone", "classifier", "state", "threshold")}
        row["task"] = task
        for name in _OURS:
            row[name] = found.get(f"{name},none")
            row[f"{name}_stderr"] = found.get(f"{name}_stderr,none")
        row["kept"] = {
            name.partition(",")[0].removeprefix("full_depth_"): (
                found.get(name.removeprefix("full_depth_")),
                value,
            )
            for name, value in found.items()
            if name.startswith("full_depth_") and "_stderr" not in name
        }
        yield row


def markdown(found: Sequence[Row]) -> str:
    """A table for every backbone and task."""
    lines: list[str] = []
    for backbone in dict.fromkeys(row["backbone"] for row in found):
        for task in dict.fromkeys(row["task"] for row in found):
            some = [row for row in found if (row["backbone"], row["task"]) == (backbone, task)]
            if not some:
                continue
            metric = _metric(some[0])
            full = "" if metric is None else f" ({metric} at full depth: {_full(some[0], metric)})"
            lines += [f"### {backbone}, `{task}`{full}", ""]
            lines.append(
                "| classifier | skipped state | threshold | layers | FLOPs saved | agreement | "
                f"consistency | {metric or 'metric'} |"
            )
            lines.append("|---|---|---|---|---|---|---|---|")
            lines += [_line(row, metric) for row in some]
            lines.append("")
    return "\n".join(lines)


def _line(row: Row, metric: str | None) -> str:
    kept = row["kept"].get(metric, (None, None))[0]
    cells = [
        row["classifier"],
        f"`{row['state']}`",
        f"{row['threshold']:g}",
        _number(row["layers_used"], row["layers_used_stderr"], 1, 2),
        _number(row["flops_saved"], row["flops_saved_stderr"], 100, 1, " %"),
        _number(row["agreement"], row["agreement_stderr"], 100, 1, " %"),
        _number(row["consistency"], row["consistency_stderr"], 100, 1, " %"),
        _number(kept, None, 1, 3),
    ]
    return f"| {' | '.join(cells)} |"


def _metric(row: Row) -> str | None:
    """The first of the task's own metrics that was scored on both answers."""
    known = [name for name in ("exact_match", "f1", "rougeL_max", "acc") if name in row["kept"]]
    return known[0] if known else next(iter(row["kept"]), None)


def _full(row: Row, metric: str) -> str:
    return _number(row["kept"][metric][1], None, 1, 3)


def _number(value: Any, stderr: Any, scale: float, digits: int, unit: str = "") -> str:
    if not isinstance(value, (int, float)):
        return "-"
    text = f"{scale * value:.{digits}f}"
    if isinstance(stderr, (int, float)):
        text += f" ± {scale * stderr:.{digits}f}"
    return text + unit


def draw(found: Sequence[Row], path: Path) -> None:
    """Agreement against net FLOPs saved, backbones down and tasks across, as PNG and SVG."""
    backbones = list(dict.fromkeys(row["backbone"] for row in found))
    tasks = list(dict.fromkeys(row["task"] for row in found))
    height = 0.6 + 3.0 * len(backbones)
    figure = new_figure(3.6 * len(tasks), height, constrained=False)
    panels = figure.subplots(len(backbones), len(tasks), sharey=True, squeeze=False)
    labels: dict[str, Any] = {}
    for down, backbone in enumerate(backbones):
        for across, task in enumerate(tasks):
            panel = panels[down][across]
            some = [row for row in found if (row["backbone"], row["task"]) == (backbone, task)]
            labels |= _panel(panel, some)
            panel.set_title(f"{backbone}\n{task}", fontsize=8)
            panel.set_xlabel("net FLOPs saved over answer tokens (%)", fontsize=8)
        panels[down][0].set_ylabel("agreement with full depth (%)", fontsize=8)
    figure.tight_layout(rect=(0, 0.3 / height, 1, 1))
    figure.legend(
        list(labels.values()),
        list(labels),
        loc="lower center",
        ncol=6,
        fontsize=8,
        frameon=False,
    )
    save_figure(figure, path.with_suffix(""), dpi=110)


def _panel(panel: Any, some: Sequence[Row]) -> dict[str, Any]:
    labels = {}
    for classifier, state in dict.fromkeys((row["classifier"], row["state"]) for row in some):
        mine = [row for row in some if (row["classifier"], row["state"]) == (classifier, state)]
        mine.sort(key=lambda row: row["threshold"])
        colour, mark = _LOOKS[classifier]
        (line,) = panel.plot(
            [100 * row["flops_saved"] for row in mine],
            [100 * row["agreement"] for row in mine],
            color=colour,
            marker=mark,
            markersize=4,
            linewidth=1.2,
            linestyle=_DASHES[state],
        )
        labels[f"{classifier}, {state}"] = line
    panel.axvline(0, color=LIGHT_GREY, linewidth=0.8, zorder=0)
    panel.axhline(95, color=LIGHT_GREY, linewidth=0.8, zorder=0)
    panel.tick_params(labelsize=7)
    return labels
