"""Tables and picture of docs/prompt-exit-measured.md, from data of ``benchmarks.prompt_exit``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.plots import (
    BLUE,
    DARK_GREY,
    DASHED,
    GREEN,
    ORANGE,
    PALE_GREY,
    RED,
    SKY,
    new_figure,
)

_LOOKS = {
    "fixed depth": (RED, "v"),
    "full-depth answers": (BLUE, "o"),
    "full-depth answers, maps": (GREEN, "D"),
    "exits": (SKY, "s"),
    "exits, maps": (ORANGE, "^"),
}
_IN_WORDS = {
    "fixed depth": "fixed depth, prompts and answers",
    "full-depth answers": "prompts exit, answers at full depth",
    "full-depth answers, maps": "prompts exit with maps, answers at full depth",
    "exits": "prompts exit, answers under exits",
    "exits, maps": "prompts exit with maps, answers under exits",
}


def groups_of(settings: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """By checkpoint and task, each ordered by line and layer."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in settings:
        groups.setdefault((one["checkpoint"], one["task"]), []).append(one)
    lines = list(_LOOKS)
    return [
        sorted(some, key=lambda one: (lines.index(one["line"]), -(one["flops_saved_total"] or 0)))
        for _, some in sorted(groups.items(), reverse=True)
    ]


def table(group: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of one checkpoint and task."""
    metric = group[0]["metric"]
    head = ["prompts", "maps", "answers", "total FLOPs saved", "agreement", "with maps, points"]
    head += ["same answer", metric, "fixed depth of equal total FLOPs"]
    head += ["agreement above it, points", "verdict"]
    rows = []
    for one in group:
        layer, depth = one["prompt_exit"], one["fixed_depth"]
        prompts = f"{layer} layers" if layer else "full depth"
        answers = "under exits" if one["line"].startswith("exits") else "full depth"
        if depth is not None:
            prompts = answers = f"{depth} layers"
        other = one.get("fixed_depth_of_equal_total") or {}
        rows.append(
            [
                prompts,
                one.get("maps") or "",
                answers,
                percent(one["flops_saved_total"]),
                percent(_mean(one["agreement"])),
                _points(one.get("more_agreement_than_without_maps")),
                percent(_mean(one["consistency"])),
                _number(_mean(one["quality"])),
                f"{other['depth']:.1f} layers" if other else "",
                _points(other.get("difference")),
                str(other.get("verdict", "")),
            ]
        )
    return markdown_table(head, rows)


def prefill_table(prefills: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of the processor by prompt exit, and as shares of full depth's."""
    rows = []
    for one in prefills:
        full = next(part["seconds"] for part in one["prefill"] if part["prompt_exit"] is None)
        for part in one["prefill"]:
            layer = part["prompt_exit"]
            rows.append(
                [
                    one["checkpoint"],
                    "full depth" if layer is None else f"{layer} layers",
                    part.get("maps") or "",
                    f"{1000 * part['seconds']:.0f}",
                    percent(part["seconds"] / full),
                ]
            )
    return markdown_table(["checkpoint", "prompts", "maps", "ms", "of full depth's"], rows)


def picture(settings: Sequence[dict[str, Any]]) -> Any:
    """Agreement and consistency over total FLOPs saved: two rows a checkpoint, a column a task."""
    by_checkpoint: dict[str, list[list[dict[str, Any]]]] = {}
    for group in groups_of(settings):
        by_checkpoint.setdefault(group[0]["checkpoint"], []).append(group)
    columns = max(map(len, by_checkpoint.values()))
    figure = new_figure(3.3 * columns, 4.6 * len(by_checkpoint) + 0.6)
    axes = figure.subplots(2 * len(by_checkpoint), columns, squeeze=False)
    for number, groups in enumerate(by_checkpoint.values()):
        for column in range(columns):
            group = groups[column] if column < len(groups) else None
            for row, key in enumerate(("agreement", "consistency")):
                panel = axes[2 * number + row][column]
                if group is None:
                    panel.remove()
                    continue
                _panel(panel, group, key)
            if group is not None:
                first = group[0]
                title = f"{first['checkpoint']}\n{first['task']}, {first['documents']} documents"
                axes[2 * number][column].set_title(title, fontsize=9)
        axes[2 * number][0].set_ylabel("agreement with full depth")
        axes[2 * number + 1][0].set_ylabel("answers equal to full depth's")
    known: dict[str, Any] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    lines = [line for line in _LOOKS if line in known]
    figure.legend(
        [known[line] for line in lines],
        [_IN_WORDS[line] for line in lines],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    return figure


def _panel(panel: Any, group: Sequence[dict[str, Any]], key: str) -> None:
    """One measure of one checkpoint and task, line by line."""
    panel.grid(color=PALE_GREY)
    panel.margins(0.12)
    panel.axhline(1.0, color=DARK_GREY, linestyle=DASHED, linewidth=1)
    for line, (colour, marker) in _LOOKS.items():
        _draw(panel, [one for one in group if one["line"] == line], key, colour, marker)
    panel.set_xlabel("share of all FLOPs saved")


def _draw(panel: Any, members: Sequence[dict[str, Any]], key: str, colour: str, mark: str) -> None:
    points = sorted(
        (one["flops_saved_total"], _mean(one[key]), one["prompt_exit"] or one["fixed_depth"])
        for one in members
        if one["flops_saved_total"] is not None and _mean(one[key]) is not None
    )
    if not points:
        return
    across, up, layers = zip(*points, strict=True)
    label = members[0]["line"]
    panel.plot(across, up, color=colour, marker=mark, label=label, linewidth=1.2, markersize=5)
    for x, y, layer in zip(across, up, layers, strict=True):
        text = "" if layer is None else str(layer)
        panel.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=7, color=colour)


def _mean(pair: Sequence[float | None] | None) -> float | None:
    return None if pair is None else pair[0]


def percent(value: float | None) -> str:
    """A share in percent; a dash without one."""
    return "-" if value is None else f"{100 * value:.1f} %"


def _points(interval: Sequence[float] | None) -> str:
    """A difference of shares in points, with its interval."""
    if interval is None:
        return ""
    mean, low, high = (100 * end for end in interval)
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
