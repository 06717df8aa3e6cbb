"""A headroom report as Markdown: ceilings by task, then the pool's exits layer by layer.

This module has its columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.headroom.estimate import Estimate
from dynamax_lm.headroom.measure import KS, Headroom
from dynamax_lm.headroom.verdict import Verdict


def render(
    found: Sequence[Headroom],
    verdicts: Sequence[Verdict],
    title: str,
    textless: Sequence[str] = (),
) -> str:
    """The whole report; ``verdicts`` has one entry for each of ``found``, the pool last.

    Args:
        found: tasks, and their pool last.
        verdicts: one for each.
        title: model and checkpoint.
        textless: tasks without numbers, as all of their answers are empty.
    """
    pool = found[-1]
    parts = [
        f"# Headroom of {title}",
        f"**{pool.name}: {verdicts[-1].level}.** {_sentence(verdicts[-1].reason)}",
        _sentence(verdicts[-1].labels),
        verdicts[-1].limits,
        _ceilings(found, verdicts),
        *_texts(found),
        *(f"`{name}`: undecided, all answers are empty." for name in textless),
        f"Vocabulary checks are at {_list(pool.checked.exits)} (chosen for all tasks together) or "
        f"at {_list(pool.default.exits)} (the default). Means over documents with 95 % betting "
        f"intervals; documents of a task about one passage count as one unit.",
        f"## Exit by exit: {pool.name}",
        _layers(pool),
        "Agreement is per document; `k = …` is the share of tokens whose label is positive: the "
        "exit's token is among full depth's k most likely.",
        *_prompts(found),
    ]
    return "\n\n".join(parts) + "\n"


def _ceilings(found: Sequence[Headroom], verdicts: Sequence[Verdict]) -> str:
    headers = [
        *("Task", "Documents", "Tokens", "Oracle layers", "Ceiling, free checks"),
        *("Vocabulary checks, best exits", "Default exits", "Verdict"),
    ]
    rows = [
        [
            one.name,
            one.counted,
            str(one.tokens),
            _number(one.free.layers_used),
            one.free.saved.as_percent(),
            one.checked.saved.as_percent(),
            one.default.saved.as_percent(),
            verdict.level,
        ]
        for one, verdict in zip(found, verdicts, strict=True)
    ]
    return markdown_table(headers, rows)


def _texts(found: Sequence[Headroom]) -> list[str]:
    """One line on the generated answers of each task that has any, and on the counted tokens."""
    told = [
        f"`{one.name}` {one.texts.answers} generated, {one.texts.distinct} distinct, "
        f"{one.texts.empty} empty"
        for one in found
        if one.texts.answers
    ]
    if not told:
        return []
    return [f"Answers: {'; '.join(told)}. Tokens that only make a stop are not counted."]


def _layers(one: Headroom) -> str:
    headers = ["Layer", "Agreement", *(f"k = {k}" for k in KS)]
    rows = [
        [str(at.layer), at.agreement.as_percent(), *(f"{at.positive[k]:.1%}" for k in KS)]
        for at in one.layers
    ]
    return markdown_table(headers, rows)


def _prompts(found: Sequence[Headroom]) -> list[str]:
    """Prompts that exit, by task and layer; nothing unless asked for."""
    rows = [
        [
            one.name,
            str(at.layer),
            at.maps or "none",
            at.saved.as_percent(),
            at.agreement.as_percent(),
        ]
        for one in found
        for at in one.prompts
    ]
    if not rows:
        return []
    headers = ["Task", "Prompts exit at layer", "Maps", "All FLOPs saved", "Agreement"]
    return [
        "## Prompts that exit",
        markdown_table(headers, rows),
        "Answers run at full depth. Agreement is the share of the answers' tokens at which full "
        "depth's token stays the most likely, with full depth's tokens before it: errors do not "
        "accumulate as they may in a run with `prompt_exit`.",
    ]


def _number(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _list(exits: Sequence[int]) -> str:
    return f"exits {', '.join(map(str, exits))}" if exits else "no exit"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
