"""The picture of lossless runs: decoding speed against full depth, by draft length and exit."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from dynamax_lm.common.plots import CYCLE, DARK_GREY, DASHED, PALE_GREY, new_figure
from dynamax_lm.report.cells import speedup_of
from dynamax_lm.report.costs import measure_name
from dynamax_lm.report.labels import plain
from dynamax_lm.report.pictures import Picture, drawn_picture
from dynamax_lm.report.rows import Row

_AUTO = "auto"
_MARKERS = ("o", "^", "v", "D", "P", "X")


def speeds(name: str, title: str, group: Sequence[Row]) -> Picture | None:
    """One line for each exit that drafts and each threshold, over draft lengths.

    Args:
        name: file name without suffix.
        title: checkpoint and task.
        group: a comparison group.

    Returns:
        ``None`` where no run is lossless, or none measured its speed.
    """
    rows = [row for row in group if row.kind == "lossless" and speedup_of(row) is not None]
    if not rows:
        return None
    lengths = sorted({_length(row) for row in rows}, key=lambda one: (one == _AUTO, _number(one)))
    places = {length: place for place, length in enumerate(lengths)}
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(_line(row), []).append((places[_length(row)], speedup_of(row) or 0.0))
    figure = new_figure(7.2, 3.8)
    axes = figure.subplots()
    axes.axhline(1.0, color=DARK_GREY, linestyle=DASHED, linewidth=1, zorder=0)
    axes.grid(color=PALE_GREY, axis="y")
    for number, (label, points) in enumerate(sorted(lines.items())):
        colour, marker = CYCLE[number % len(CYCLE)], _MARKERS[number % len(_MARKERS)]
        auto = [point for point in sorted(points) if lengths[point[0]] == _AUTO]
        fixed = [point for point in sorted(points) if point not in auto]
        for some, line in ((fixed, "-"), (auto, "")):  # no line leads to an adaptive length
            x, y = [one for one, _ in some], [one for _, one in some]
            own = plain(label, 60, 2) if some and (some is fixed or not fixed) else None
            axes.plot(x, y, line, label=own, markersize=6, color=colour, marker=marker)
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("most tokens of a draft")
    axes.set_ylabel("tokens a second / full depth's")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.suptitle(plain(f"{title}: lossless decoding", 90), fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    best = max(rows, key=lambda row: speedup_of(row) or 0.0)
    description = (
        f"Speed of lossless decoding of {title}, as a multiple of full depth's in the same run; "
        f"the fastest is {speedup_of(best):.2f} ({_line(best)}, drafts of {_length(best)})."
    )
    return drawn_picture(name, f"{title}: speed of lossless decoding", description, figure)


def _line(row: Row) -> str:
    settings = row.run.settings
    exits = "+".join(map(str, settings.get("exit_layers") or ()))
    return f"exit {exits}, {measure_name(settings)} ≥ {settings.get('threshold')}"


def _length(row: Row) -> str:
    return str(row.run.settings.get("draft_length", _AUTO))


def _number(length: str) -> int:
    return 0 if length == _AUTO else int(length)
