"""A coloured answer as an HTML fragment, with inline styles, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from dynamax_lm.common.plots import shades

if TYPE_CHECKING:
    from dynamax_lm.answers import Answer

_TOKEN = "padding:.1em .15em;margin:0 1px;border-radius:2px;"


def answer_html(answer: Answer) -> str:
    """Every token on the colour of its depth, with its details as a tooltip, and a line of totals.

    Tokens that differ from full depth's have a ``≠`` and a double underline. The colours of papers
    and inks are fixed, so that they are readable on light and dark notebooks.
    """
    colours = dict(zip(answer.depths, shades(len(answer.depths)), strict=True))
    last, spans = answer.depths[-1], []
    rows = zip(answer.trace.rows(), answer.pieces, answer.full_depth_pieces, strict=True)
    for row, piece, full in rows:
        told = [f"{row.layers_used} of {last} layers"]
        told += [] if row.confidence is None else [f"confidence {row.confidence:.3f}"]
        told += [] if full is None else [f"full depth: {full!r}"]
        shade = colours[row.layers_used]
        style = f"{_TOKEN}background:{shade.paper};color:{shade.ink};"
        style += "" if full is None else "border-bottom:3px double #d55e00;"
        mark = "" if full is None else "≠"
        shown = escape(piece).replace("\n", "↵<br>") or "·"
        title = escape(" · ".join(told), quote=True)
        spans.append(f'<span style="{style}" title="{title}">{mark}{shown}</span>')
    legend = "".join(
        f'<span style="{_TOKEN}background:{shade.paper};color:{shade.ink};">{layers}</span>'
        for layers, shade in colours.items()
    )
    return (
        f'<div style="line-height:2;white-space:pre-wrap">{"".join(spans)}</div>'
        f'<div style="font-size:.85em">layers used: {legend} {escape(_line(answer))}</div>'
    )


def _line(answer: Answer) -> str:
    return ", ".join(_facts(answer))


def _facts(answer: Answer) -> Iterable[str]:
    if len(answer):
        yield f"mean {sum(answer.trace.text.layers_used) / len(answer):.1f} of {answer.depths[-1]}"
        yield f"{answer.flops.flops_saved:.1%} of the answer's FLOPs saved, net"
    if answer.agreement is not None:
        yield f"agreement with full depth {answer.agreement:.1%}"
