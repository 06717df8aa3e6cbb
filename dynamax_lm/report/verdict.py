"""One sentence for each checkpoint and task: what early exit saves, and against what it holds.

The sentence repeats numbers and verdicts of the table; it computes no statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynamax_lm.report.cells import baseline_of, percent, speedup_of
from dynamax_lm.report.labels import depth_text
from dynamax_lm.report.leaderboard import Entry, Leaderboard
from dynamax_lm.report.metric_choice import one_metric_each
from dynamax_lm.report.runs import Value
from dynamax_lm.report.static_baseline import FULL_DEPTH, StaticBaseline

ENOUGH = 0.9
"""Agreement with full depth that the setting of a sentence has, if any has it."""


class Sentence(NamedTuple):
    """A verdict in words.

    Attributes:
        title: checkpoint and task.
        setting: the one that it is about, in words.
        text: the sentence.
    """

    title: str
    setting: str
    text: str


def verdicts_of(board: Leaderboard) -> list[Sentence]:
    """A sentence for every checkpoint and task with exits, in the table's order."""
    entries = {id(entry.row): entry for entry in board.entries}
    rows = [entry.row for entry in board.entries if not entry.row.run.is_group(entry.row.task)]
    found = []
    for group in one_metric_each(rows):
        sentence = _sentence([entries[id(row)] for row in group])
        if sentence is not None:
            found.append(sentence)
    return found


def _sentence(group: Sequence[Entry]) -> Sentence | None:
    title = f"{group[0].row.checkpoint}, {group[0].row.task}"
    chosen, why = _choose([entry for entry in group if entry.row.kind == "dynamic"])
    if chosen is None:
        lossless = [e for e in group if e.row.kind == "lossless" and speedup_of(e.row) is not None]
        if not lossless:
            return None
        best = max(lossless, key=lambda entry: speedup_of(entry.row) or 0.0)
        text = f"Lossless decoding runs at {speedup_of(best.row):.2f} times full depth's speed."
        return Sentence(title, best.row.setting, text)
    row = chosen.row
    text = (
        f"Exiting early {_saved(row.flops_saved, 'the answer FLOPs')}"
        f"{_and_total(row.flops_saved_total)}, at an agreement of {percent(row.agreement)} with "
        f"full depth; {_static(baseline_of(chosen, 'answer'), row.run.documents(row.task))}."
    )
    total = baseline_of(chosen, "total")
    if total is not None and total.verdict != "unknown":
        text += f" With prompts in both, {_static(total, row.run.documents(row.task))}."
    if len(group) > 1 and len({entry.row.quality.mean for entry in group}) == 1:
        text += (
            f" {row.key.metric} is {row.quality.mean:.3f} under every setting, and tells nothing "
            "of what exits cost in quality."
        )
    return Sentence(title, f"{row.setting}{why}", text)


def _choose(dynamic: Sequence[Entry]) -> tuple[Entry | None, str]:
    """The setting of the sentence, and why it is this one."""
    known = [e for e in dynamic if e.row.flops_saved is not None and e.row.agreement is not None]
    if not known:
        return None, ""
    close = [entry for entry in known if _agreement(entry) >= ENOUGH]
    if close:
        chosen = max(close, key=_saving)
        why = f"saves most at an agreement of at least {ENOUGH:.0%}"
    else:
        chosen = max(known, key=_agreement)
        why = f"agrees most; none agrees to {ENOUGH:.0%}"
    return chosen, f" (of {len(known)} settings with exits the one that {why})" if known[1:] else ""


def _agreement(entry: Entry) -> float:
    return entry.row.agreement.mean if entry.row.agreement else 0.0


def _saving(entry: Entry) -> float:
    return entry.row.flops_saved.mean if entry.row.flops_saved else 0.0


def _saved(value: Value | None, of: str) -> str:
    if value is None:
        return f"saves an unknown share of {of}"
    if value.mean < 0:
        return f"costs {percent(Value(-value.mean, value.stderr))} more of {of} than full depth"
    return f"saves {percent(value)} of {of}"


def _and_total(value: Value | None) -> str:
    if value is None:
        return ""
    if value.mean < 0:
        return f" and costs {percent(Value(-value.mean, value.stderr))} more with the prompts"
    return f" and {percent(value)} of all FLOPs, prompts included"


def _static(baseline: StaticBaseline | None, documents: int | None) -> str:
    """What a fixed depth of the same cost does, by the corrected verdict of the table."""
    if baseline is None:
        return "no fixed depth of the same FLOPs is known"
    depth = f"a fixed depth of {depth_text(baseline.depth)} layers, which costs the same,"
    told = f" in {' and '.join(baseline.told_by)}" if baseline.told_by else ""
    if baseline.verdict == "unknown":
        return f"how {depth} does was {baseline.source}"
    if baseline.source == FULL_DEPTH:
        better = "is worse than the setting" if baseline.verdict == "beats" else "does as well"
        return f"full depth itself costs no more and {better}{told}"
    if baseline.verdict == "beats":
        return f"{depth} does worse{told}"
    if baseline.verdict == "is worse":
        return f"{depth} does better{told}"
    if baseline.verdict == "mixed":
        return f"{depth} does better in one metric and worse in another ({told.strip()[3:]})"
    count = f"{documents} documents" if documents else "these documents"
    return f"whether {depth} does as well cannot be told from {count}"
