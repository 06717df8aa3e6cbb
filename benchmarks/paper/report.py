"""The experiment's tables and plot, from the results of its points alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.plots import BLACK, LIGHT_GREY, PURPLE, RED, new_figure, save_figure

Row = Mapping[str, Any]

AGREEMENT = 0.95
"""At which the savings of classifiers are compared."""
_OURS = ("layers_used", "flops_saved", "flops_saved_total", "agreement", "consistency")
_METRICS = ("exact_match", "f1", "rougeL_max", "acc")
_LOOKS = {"linear": (BLACK, "o"), "ffn": (PURPLE, "s"), "mamba": (RED, "^")}
_FIXED = (LIGHT_GREY, "D")
_DASHES = {"propagate": "-", "copy_kv": "--", "freeze": "--", "recompute": ":"}


def rows(told: Row, results: Row) -> Iterator[dict[str, Any]]:
    """One row per task of a point.

    Args:
        told: backbone, classifier, skipped state and threshold.
        results: of lm-eval; those of groups are averages of tasks, and left out.
    """
    groups = results.get("groups", {})
    for task, found in results["results"].items():
        if task in groups:
            continue
        row = {**told, "task": task}
        for name in _OURS:
            row[name] = found.get(f"{name},none")
            row[f"{name}_stderr"] = found.get(f"{name}_stderr,none")
        yield row | _metric(found)


def _metric(found: Row) -> dict[str, Any]:
    """The first of the task's own metrics that was scored on both answers."""
    for metric in _METRICS:
        for key, full in found.items():
            name, _, filter_name = key.partition(",")
            if name == f"full_depth_{metric}":
                return {
                    "metric": metric,
                    "value": found.get(f"{metric},{filter_name}"),
                    "value_stderr": found.get(f"{metric}_stderr,{filter_name}"),
                    "full_depth": full,
                }
    return {"metric": None, "value": None, "value_stderr": None, "full_depth": None}


def best(found: Sequence[Row]) -> str:
    """The largest saving of each classifier at agreement of at least 0.95: a table a backbone.

    Chosen and measured on the same documents, and hence too favourable, to all alike.
    """
    header = ["task", "classifier", "skipped state", "threshold", "FLOPs saved"]
    header += ["of all FLOPs", "agreement", "consistency", "metric", "at full depth"]
    pages = []
    for backbone in dict.fromkeys(row["backbone"] for row in found):
        lines = []
        for task in dict.fromkeys(row["task"] for row in found if row["backbone"] == backbone):
            some = [row for row in found if (row["backbone"], row["task"]) == (backbone, task)]
            for family in dict.fromkeys(map(_family, some)):
                if family[0] == "full depth":
                    continue
                mine = [row for row in some if _family(row) == family]
                good = [row for row in mine if (row["agreement"] or 0.0) >= AGREEMENT]
                cells = ["none", *6 * ["-"]]
                if good:
                    cells = _cells(max(good, key=lambda one: float(one["flops_saved"])))
                lines.append([f"`{task}`", family[0], f"`{family[1]}`", *cells])
        pages.append(f"### {Path(backbone).name}\n\n{markdown_table(header, lines)}\n")
    return "\n".join(pages)


def _family(row: Row) -> tuple[str, str]:
    """Classifier and state; all fixed depths of a state are one."""
    classifier = str(row["classifier"])
    fixed = classifier.startswith("fixed depth")
    return "fixed depth" if fixed else classifier, str(row["skipped_state"])


def _cells(row: Row) -> list[str]:
    fixed = str(row["classifier"]).removeprefix("fixed depth ")
    own = f"layer {fixed}" if fixed != row["classifier"] else f"{row['threshold']:g}"
    return [
        own,
        _number(row["flops_saved"], row["flops_saved_stderr"], 100, 1, " %"),
        _number(row["flops_saved_total"], row["flops_saved_total_stderr"], 100, 1, " %"),
        _number(row["agreement"], row["agreement_stderr"], 100, 1, " %"),
        _number(row["consistency"], row["consistency_stderr"], 100, 1, " %"),
        f"{_number(row['value'], row['value_stderr'], 1, 3)} {row['metric'] or ''}".strip(),
        _number(row["full_depth"], None, 1, 3),
    ]


def markdown(found: Sequence[Row]) -> str:
    """All points: a table for every backbone and task."""
    header = ["classifier", "skipped state", "layers", "threshold", "FLOPs saved"]
    header += ["of all FLOPs", "agreement", "consistency", "metric", "at full depth"]
    pages = []
    for backbone, task in _panels(found):
        some = [row for row in found if (row["backbone"], row["task"]) == (backbone, task)]
        lines = [
            [
                row["classifier"],
                row["skipped_state"],
                _number(row["layers_used"], row["layers_used_stderr"], 1, 2),
                *_cells(row),
            ]
            for row in some
        ]
        pages.append(f"### {backbone}, `{task}`\n\n{markdown_table(header, lines)}")
    return "\n".join(pages)


def _panels(found: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["backbone"], row["task"]) for row in found))


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
    height = 0.9 + 3.0 * len(backbones)
    figure = new_figure(3.6 * len(tasks), height, constrained=False)
    panels = figure.subplots(len(backbones), len(tasks), sharey="row", squeeze=False)
    labels: dict[str, Any] = {}
    for down, backbone in enumerate(backbones):
        for across, task in enumerate(tasks):
            panel = panels[down][across]
            some = [row for row in found if (row["backbone"], row["task"]) == (backbone, task)]
            labels |= _panel(panel, some)
            panel.set_title(f"{Path(backbone).name}\n{task}", fontsize=8)
            panel.set_xlabel("net FLOPs saved over answer tokens (%)", fontsize=8)
        panels[down][0].set_ylabel("agreement with full depth (%)", fontsize=8)
    figure.tight_layout(rect=(0, 0.75 / height, 1, 1))
    figure.legend(
        list(labels.values()),
        list(labels),
        loc="lower center",
        ncol=4,
        fontsize=8,
        frameon=False,
    )
    save_figure(figure, path.with_suffix(""), dpi=110)


def _panel(panel: Any, some: Sequence[Row]) -> dict[str, Any]:
    labels = {}
    for family in dict.fromkeys(map(_family, some)):
        classifier, state = family
        if classifier == "full depth":
            continue
        mine = [row for row in some if _family(row) == family]
        mine.sort(key=lambda row: (row["threshold"], row["layers_used"]))
        colour, mark = _LOOKS.get(classifier, _FIXED)
        (line,) = panel.plot(
            [100 * row["flops_saved"] for row in mine],
            [100 * row["agreement"] for row in mine],
            color=colour,
            marker=mark,
            markersize=4,
            linewidth=1.2,
            linestyle=_DASHES.get(state, "-"),
        )
        labels[f"{classifier}, {state}" if state else classifier] = line
    panel.axvline(0, color=LIGHT_GREY, linewidth=0.8, zorder=0)
    panel.axhline(100 * AGREEMENT, color=LIGHT_GREY, linewidth=0.8, zorder=0)
    panel.tick_params(labelsize=7)
    return labels
