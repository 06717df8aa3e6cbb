"""The report as HTML: one leaderboard page, and one page a task for tokens.

Owns what goes into the templates. Pages need no network, and forbid themselves any.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import NamedTuple

import jinja2

from dynamax_lm import __version__
from dynamax_lm.common.intervals import LEVEL
from dynamax_lm.report import tables
from dynamax_lm.report.figures import Figures
from dynamax_lm.report.leaderboard import Entry, Leaderboard
from dynamax_lm.report.palette import shades
from dynamax_lm.report.rows import checkpoint_of, setting_of
from dynamax_lm.report.runs import Value
from dynamax_lm.report.static_baseline import ACCOUNTS, StaticBaseline
from dynamax_lm.report.tokens import TokenPage


class _Column(NamedTuple):
    label: str
    help: str


class _Cell(NamedTuple):
    text: str
    value: str = ""
    number: bool = False
    css: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A row as the template takes it."""

    task: str
    metric: str
    checkpoint: str
    kind: str
    css: str
    cells: list[_Cell]


EMBEDDED = 6 << 20
"""Bytes of pictures that the page holds itself: about ninety tasks of four."""

_NOTHING = "–"
"""A cell that says nothing; a column of them is left out."""
_NO_VERDICT = frozenset({"unknown", "not tested", "not distinguishable"})
_COLUMNS = (
    _Column("task", "sort by task"),
    _Column("metric", "the arrow shows the better way"),
    _Column("checkpoint", "the weights"),
    _Column("setting", "how and where tokens leave"),
    _Column("answers", "answers token by token"),
    _Column("value", "the task's metric, with its standard error"),
    _Column("full depth", "the same metric on the full-depth model's answers"),
    _Column("net FLOPs saved", "over the text's tokens: checks, projections and state included"),
    _Column(
        "agreement",
        "share of the text's tokens equal to full depth's; noise: what rounding alone parts",
    ),
    _Column(tables.BASELINES["answer"], "always leaving at the depth whose answers cost the same"),
    _Column(tables.BASELINES["total"], "the same with prompts: k layers prefill k layers"),
    _Column("Pareto", "no other setting saves as much and is as good"),
    _Column("layers", "decoder layers run per token of the text"),
    _Column("consistency", "share of documents whose answer is full depth's"),
    _Column("with prompt", "net FLOPs saved with the prompt in both"),
    _Column("stop's share", "share of generated tokens that make the stop and no text"),
    _Column("saved with stop", "net FLOPs saved over all generated tokens"),
    _Column("agreement with stop", "over all generated tokens"),
    _Column("few-shot", "examples in the prompt"),
    _Column("documents", "how many"),
    _Column("certificate", "what is certified of the threshold"),
)


def leaderboard_page(
    board: Leaderboard,
    *,
    runs: int,
    problems: Sequence[str] = (),
    figures: Sequence[Figures] = (),
    links: Mapping[tuple[str, str], str] | None = None,
    convention: str = "",
    verification: str = "",
) -> str:
    """The page of the whole report.

    Args:
        board: rows and comparisons.
        runs: how many were read.
        problems: what could not be, one line a file.
        figures: pictures under their headings. The page holds the first ``EMBEDDED`` bytes of
            them, and names the others' files in ``pictures/`` beside it.
        links: the token page of a results file's task, relative to this page.
        convention: what the numbers mean, as the results say it.
        verification: what a verification came to, in a sentence.
    """
    rows = [_shown(entry, links or {}) for entry in board.entries]
    told = [i for i in range(len(_COLUMNS)) if any(row.cells[i].text != _NOTHING for row in rows)]
    names = ("task", "metric", "checkpoint", "kind")
    filters = [
        (name, name.capitalize(), sorted({str(getattr(row, name)) for row in rows}))
        for name in names
    ]
    return _template("index.html.j2").render(
        rows=[replace(row, cells=[row.cells[i] for i in told]) for row in rows],
        columns=[_COLUMNS[i] for i in told],
        filters=filters,
        runs=runs,
        problems=problems,
        convention=convention,
        verification=verification,
        level=f"{LEVEL:.0%}",
        looked=tables.looked_text(board),
        version=__version__,
        date=tables.date_of(datetime.now(tz=timezone.utc).timestamp()),
        apart=board.apart,
        comparisons=[
            {**tables.comparison_record(one), "text": tables.difference_text(one)}
            for one in board.comparisons
        ],
        figures=_sources(figures),
    )


def tokens_page(page: TokenPage) -> str:
    """The page of one task's answers."""
    colours = shades(len(page.depths))
    return _template("tokens.html.j2").render(
        task=page.task,
        checkpoint=checkpoint_of(page.run),
        setting=setting_of(page.run),
        layers=page.layers,
        texts=page.texts,
        scored=page.scored,
        documents=page.documents,
        shades=[
            {"layer": layer, "paper": shade.paper, "ink": shade.ink}
            for layer, shade in zip(page.depths, colours, strict=True)
        ],
    )


def _sources(figures: Sequence[Figures]) -> list[tuple[str, list[dict[str, str | bool]]]]:
    """Every picture as the template takes it: itself while there is room, else its file's name."""
    room, shown = EMBEDDED, []
    for heading, pictures in figures:
        sources: list[dict[str, str | bool]] = []
        for picture in pictures:
            room -= len(picture.png)
            data = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
            beside = f"pictures/{picture.name}.png"
            sources.append(
                {
                    "title": picture.title,
                    "description": picture.description,
                    "source": data if room >= 0 else beside,
                    "drawing": f"pictures/{picture.name}.svg",
                    "beside": room < 0,
                }
            )
        shown.append((heading, sources))
    return shown


def _shown(entry: Entry, links: Mapping[tuple[str, str], str]) -> _Shown:
    row = entry.row
    documents, few_shot = row.run.documents(row.task), row.conditions.few_shot
    link = links.get((str(row.run.path), row.task), "")
    css = "best" if any(entry.marks) else ""
    return _Shown(
        task=row.task,
        metric=row.key.metric,
        checkpoint=row.checkpoint,
        kind=row.kind,
        css=f"{css} {row.kind}".strip(),
        cells=[
            _Cell(row.task, row.task),
            _Cell(tables.metric_name(entry), row.key.metric),
            _Cell(row.checkpoint, row.checkpoint),
            _Cell(tables.setting_text(entry), row.setting),
            _Cell("read" if link else _NOTHING, "", link=link),
            _number(tables.shown(row.quality), row.quality),
            _number(tables.shown(row.full_depth), row.full_depth),
            _number(tables.percent(row.flops_saved), row.flops_saved),
            _number(tables.agreement_text(entry), row.agreement),
            *(_baseline(tables.baseline_of(entry, account)) for account in ACCOUNTS),
            _Cell(tables.pareto_text(entry), str(sum(entry.marks))),
            _number(tables.layers_text(entry), row.layers_used),
            _number(tables.percent(row.consistency), row.consistency),
            _number(tables.percent(row.flops_saved_total), row.flops_saved_total),
            _number(tables.percent(row.stop_share), row.stop_share),
            _number(tables.percent(row.flops_saved_with_stop), row.flops_saved_with_stop),
            _number(tables.percent(row.agreement_with_stop), row.agreement_with_stop),
            _Cell(few_shot or _NOTHING, few_shot, number=True),
            _Cell(str(documents or _NOTHING), str(documents or ""), number=True),
            _Cell(row.certificate or _NOTHING, row.certificate),
        ],
    )


def _number(text: str, value: Value | None) -> _Cell:
    return _Cell(text, "" if value is None else repr(value.mean), number=True)


def _baseline(baseline: StaticBaseline | None) -> _Cell:
    verdict = baseline.verdict if baseline else ""
    css = "soft" if verdict in _NO_VERDICT else {"": "", "beats": "good"}.get(verdict, "bad")
    return _Cell(tables.baseline_text(baseline), verdict, css=css)


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynamax_lm.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
