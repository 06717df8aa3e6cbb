"""Tables and pictures of a comparison, from plain numbers alone.

Markdown and the plot; it uses neither models nor states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamax_lm.common.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    new_figure,
    save_figure,
)

Row = Mapping[str, Any]

_COLOURS = {  # Okabe and Ito's, distinct for colour-blind readers; dashes and marks differ too
    "top_prob": BLUE,
    "margin": SKY,
    "entropy": GREEN,
    "saturation": GREY,
    "patience": YELLOW,
    "linear": BLACK,
    "ffn": PURPLE,
    "mamba": RED,
    "mamba_depth": ORANGE,
}
_OUTSIDE = "#332288"
_MARKERS = ("o", "^", "v", "D", "P", "X", "<", ">", "p", "h")
"""Of measures from outside the package."""
_TITLES = {
    "none": "untrained exits",
    "affine": "affine translators",
    "low_rank": "low-rank translators",
}


def markdown(results: Row) -> str:
    """The tables of one backbone."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Row) -> Iterator[str]:
    facts = results["facts"]
    yield (
        f"{facts['documents']} documents ({_tasks(facts['tasks'])}) with "
        f"{facts['distinct_answers']} different answers, {facts['tokens']:,} answer tokens of "
        f"which {facts['text_tokens']:,} are text and the rest the stop; {_empty(results)}. Exits "
        f"after layers {', '.join(map(str, facts['exits']))} of {facts['layers']}{_layers(facts)}; "
        f"state of skipped layers billed as `{facts['skipped_state']}`; "
        f"{facts['thresholds']} thresholds. "
        f"Heads were trained on {facts['train_tokens']:,} tokens of {_training(facts)}."
    )
    yield ""
    yield f"| exit after layer | {' | '.join(map(str, facts['exits']))} |"
    yield f"|---|{'---|' * len(facts['exits'])}"
    for name, shares in results["exit_agreement"].items():
        yield f"| agreement, {_TITLES[name]} | {' | '.join(map(_percent, shares))} |"
    for name, static in results["statics"].items():
        saved = " | ".join(_percent(one["saved"]) for one in static[:-1])
        yield f"| fixed depth saves, {_TITLES[name]} | {saved} |"
        agree = " | ".join(_percent(one["agreement"]) for one in static[:-1])
        yield f"| its agreement, mean over documents | {agree} |"
    for name in results["columns"]:
        yield from ("", f"#### {_TITLES[name].capitalize()}", "")
        yield from _table([one for one in results["lines"] if one["translators"] == name])
    if results["pairs"]:
        yield from ("", "#### Narrow Mamba heads compared with the others", "")
        yield from _pairs(results["pairs"])
    if results["attribution"]:
        yield from ("", "#### Error of the rule and of the state", "")
        yield from _attribution(results["attribution"])


def _layers(facts: Row) -> str:
    """The layers in place of the checkpoint's own, if there are any."""
    name = facts.get("outside_layers")
    return "" if name is None else f", those of `{name}`"


def _training(facts: Row) -> str:
    if "train_texts" not in facts:
        return f"the model's own answers to {facts['train_documents']:,} other prompts"
    return f"the model's own answers and of text: {_tasks(facts['train_texts'])}"


def _empty(results: Row) -> str:
    if not results["empty"]:
        return "no answer is empty"
    return f"empty answers, excluded: {_tasks(results['empty'])}"


def _table(lines: Sequence[Row]) -> Iterator[str]:
    oracle = next(one for one in lines if one["rule"] == "oracle")
    yield (
        f"The oracle saves **{_percent(oracle['saved'])}** {_interval(oracle['saved_interval'])} "
        f"at {oracle['layers']:.1f} layers a token."
    )
    yield ""
    yield (
        "| rule | saved at 0.90 | saved at 0.95 | stop counted | agreement measured | layers | of "
        "the oracle's | fixed depths of equal cost | difference in agreement, points | verdict | "
        "saved at 0.99 |"
    )
    yield f"|{'---|' * 11}"
    rules = list(dict.fromkeys(one["rule"] for one in lines if one["rule"] != "oracle"))
    rows = {rule: {one["target"]: one for one in lines if one["rule"] == rule} for rule in rules}
    for rule in sorted(rules, key=lambda rule: -rows[rule][0.95]["saved"]):
        low, mid, high = (rows[rule][target] for target in (0.90, 0.95, 0.99))
        yield (
            f"| `{rule}` | {_percent(low['saved'])} | **{_percent(mid['saved'])}** "
            f"{_interval(mid['saved_interval'])} | {_percent(mid['saved_with_stop'])} | "
            f"{_percent(mid['agreement'])} {_interval(mid['agreement_interval'])} | "
            f"{mid['layers']:.1f} | {_percent(mid['of_oracle'])} | {_static(mid['static'])} | "
            f"{100 * mid['gap']:+.1f} {_interval(mid['gap_interval'])} | {mid['verdict']} | "
            f"{_percent(high['saved'])} {_interval(high['saved_interval'])}, {high['verdict']} |"
        )
    coarse = max(abs(one["saved"] - one["saved_coarse"]) for one in lines)
    yield ""
    yield (
        f"With every second threshold alone no saving of this table changes by more than "
        f"{100 * coarse:.2f} points."
    )


def _static(static: Row | None) -> str:
    if static is None:
        return "full depth is cheaper"
    return f"{static['shallow']}/{static['deep']} layers: {_percent(static['agreement'])}"


def _pairs(rows: Sequence[Row]) -> Iterator[str]:
    yield "| translators | rule | against | saved more at 0.95, points |"
    yield "|---|---|---|---|"
    for one in rows:
        yield (
            f"| {one['translators']} | `{one['first']}` | `{one['second']}` | "
            f"{100 * one['difference']:+.2f} {_interval(one['difference_interval'], 2)} |"
        )


def _attribution(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| translators | rule | skipped state | agreement, exact state | in the engine | error of "
        "the rule | error of the state | 95 % interval |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for one in rows:
        yield (
            f"| {one['translators']} | `{one['rule']}` | `{one['skipped_state']}` | "
            f"{_percent(one['exact'])} | {_percent(one['engine'])} | "
            f"{_percent(1 - one['exact'])} | "
            f"{_percent(one['exact'] - one['engine'])} | {_interval(one['state_interval'])} |"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(pair: Sequence[float] | None, digits: int = 1) -> str:
    if pair is None:
        return "too few documents"
    return f"[{100 * pair[0]:.{digits}f}, {100 * pair[1]:.{digits}f}]"


def _tasks(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def draw(results: Row, path: Path) -> None:
    """Agreement against net FLOPs saved, a panel per column, as PNG and SVG."""
    columns = results["columns"]
    figure = new_figure(8.0, 4.2 * len(columns) + 1.2)
    panels = figure.subplots(len(columns), 1, squeeze=False)
    known: dict[str, Any] = {}
    for panel, name in zip(panels[:, 0], columns, strict=True):
        _panel(panel, results, name)
        panel.set_ylabel("agreement with full depth (%)")
        known |= {line.get_label(): line for line in panel.get_lines() if _is_seen(panel, line)}
    figure.suptitle(results["facts"]["title"], fontsize=11)
    named = {label: line for label, line in known.items() if not label.startswith("_")}
    figure.legend(
        named.values(), named, loc="outside lower center", ncol=3, fontsize=8, frameon=False
    )
    save_figure(figure, path.with_suffix(""), dpi=110)


def _is_seen(panel: Any, line: Any) -> bool:
    """Whether a point of the line is inside the axes."""
    (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
    points = zip(line.get_xdata(), line.get_ydata(), strict=True)
    return any(left <= x <= right and low <= y <= high for x, y in points)


def _panel(panel: Any, results: Row, column: str) -> None:
    oracle = next(
        one for one in results["lines"] if one["translators"] == column and one["rule"] == "oracle"
    )
    ceiling = 100 * oracle["saved"]
    for number, (rule, points) in enumerate(results["curves"][column].items()):
        kind, _, width = rule.partition(", ")
        ordered = sorted(points, key=lambda one: one["threshold"])
        panel.plot(
            [100 * one["saved"] for one in ordered],
            [100 * one["agreement"] for one in ordered],
            color=_COLOURS.get(kind, _OUTSIDE),
            linestyle="--" if width == "full" else "-",
            linewidth=1.2,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            label=rule,
        )
    statics = results["statics"][column]
    panel.plot(
        [100 * one["saved"] for one in statics],
        [100 * one["agreement"] for one in statics],
        color="black",
        marker="s",
        markersize=4,
        linestyle=":",
        linewidth=1.2,
        label="fixed depths",
    )
    panel.plot(
        [ceiling], [100], color="black", marker="*", markersize=13, linestyle="", label="oracle"
    )
    panel.axhline(95, color=LIGHT_GREY, linewidth=0.8, zorder=0)
    panel.axvline(0, color=LIGHT_GREY, linewidth=0.8, zorder=0)
    widest = max(ceiling, 100 * statics[0]["saved"])
    panel.set_xlim(-0.6 * ceiling - 2, 1.1 * widest)
    panel.set_ylim(79.5, 100.6)
    panel.set_xlabel("net FLOPs saved over answer tokens (%)")
    panel.set_title(_TITLES[column], fontsize=10)
