"""Tables and pictures of translators over the tokens that they were trained on.

The learning curve's table and plot, from plain numbers alone. The comparison of rules is drawn
by ``benchmarks.criteria.report``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamax_lm.common.plots import BLUE, GREY, RED, new_figure, save_figure

Row = Mapping[str, Any]
VIEWS = ("test answers", "held-out text")
_TITLES = {"none": "none", "affine": "affine", "low_rank": "low-rank"}
_STYLES = {
    ("affine", "least squares"): (BLUE, "--"),
    ("affine", "distilled"): (BLUE, "-"),
    ("low_rank", "distilled"): (RED, "-"),
}


def curve_table(rows: Sequence[Row]) -> str:
    """Agreement and divergence by exit, a table for each kind of token."""
    return "\n".join(_tables(rows)) + "\n"


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    for view in VIEWS:
        layers = [one["layer"] for one in rows[0][view]]
        yield f"On {view}: agreement (divergence in nats) after layer"
        yield ""
        yield f"| translators | stage | tokens | {' | '.join(map(str, layers))} |"
        yield f"|---|---|---|{'---|' * len(layers)}"
        for row in rows:
            found = " | ".join(
                f"{100 * one['agreement']:.1f} % ({one['divergence']:.2f})" for one in row[view]
            )
            yield (
                f"| {_TITLES[row['translator']]} | {row['stage']} | {row['tokens']:,} | {found} |"
            )
        yield ""


def draw_curve(rows: Sequence[Row], path: Path) -> None:
    """Agreement at each exit against the tokens trained on, a panel for each kind of token."""
    figure = new_figure(9.0, 4.2)
    panels = figure.subplots(1, len(VIEWS), sharey=True)
    for panel, view in zip(panels, VIEWS, strict=True):
        for number, exit_row in enumerate(rows[0][view]):
            panel.axhline(100 * exit_row["agreement"], color=GREY, linewidth=0.7, linestyle=":")
            for (kind, stage), (colour, line) in _STYLES.items():
                own = [r for r in rows if (r["translator"], r["stage"]) == (kind, stage)]
                if not own:
                    continue
                own.sort(key=lambda row: row["tokens"])
                heights = [100 * row[view][number]["agreement"] for row in own]
                panel.plot(
                    [row["tokens"] for row in own],
                    heights,
                    color=colour,
                    linestyle=line,
                    marker="o",
                    markersize=3,
                    linewidth=1.2,
                    label=f"{_TITLES[kind]}, {stage}" if not number else None,
                )
                if stage == "distilled":
                    panel.annotate(
                        str(exit_row["layer"]),
                        (own[-1]["tokens"], heights[-1]),
                        textcoords="offset points",
                        xytext=(5, -3),
                        fontsize=8,
                    )
        panel.set_xscale("log")
        counts = sorted({row["tokens"] for row in rows if row["tokens"]})
        panel.set_xticks(counts, [f"{count:,}" for count in counts])
        panel.minorticks_off()
        panel.set_xlabel("tokens trained on")
        panel.set_title(view, fontsize=10)
    panels[0].set_ylabel("agreement with full depth (%)")
    panels[0].legend(fontsize=8, frameon=False)
    save_figure(figure, path.with_suffix(""), dpi=110)
