"""What prompts that exit early cost in quality, and what they save, against fixed depths.

    python -m dynamax_lm.heads.train.prompt_maps ... --prompt_exit 4 --output_path maps/mistral-4
    python -m benchmarks.prompt_exit measure --model dynamax-mistral --model_args pretrained=tiny \
        --tasks dynamax_triviaqa_sample,dynamax_coqa_sample --limit 64 --batch_size 16 \
        --prompt_exits 4,8,12 --prompt_maps maps/mistral-{} --with_exits none,8 \
        --depths 4,8,12 --output_path runs
    python -m benchmarks.prompt_exit seconds --model dynamax-mistral --model_args pretrained=tiny \
        --prompt_exits 4,8,12 --prompt_maps maps/mistral-{} --output_path runs
    python -m benchmarks.prompt_exit report runs --data benchmarks/prompt_exit.json \
        --picture docs/pictures/prompt-exit
    python -m benchmarks.prompt_exit ledger

``measure`` is a sweep: full depth, prompts that exit with answers at full depth and with answers
under the default exits, each with prompt maps too, and fixed depths. ``seconds`` times the prefill
of one prompt of random tokens, in seconds of the processor and in rounds over all exits, so that
other processes matter little. ``report`` writes both as data and a picture, and prints the tables
of docs/prompt-exit-measured.md; checkpoints of the data that are in none of the folders stay there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.prompt_exit_page import groups_of, percent, picture, prefill_table, table
from benchmarks.published import CONTEXT, published
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_json
from dynamax_lm.common.plots import save_figure as save
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.harness.command_line import folder_name, load_lm
from dynamax_lm.report.depth_bills import saving_of
from dynamax_lm.report.difference import Difference
from dynamax_lm.report.document_values import AGREEMENT, MismatchError
from dynamax_lm.report.leaderboard import Entry, build
from dynamax_lm.report.load import Library, load
from dynamax_lm.report.paired import Comparison, compare
from dynamax_lm.report.rows import Row, static_depth
from dynamax_lm.report.runs import MetricKey, Value
from dynamax_lm.sweep.__main__ import main as sweep

_SECONDS = "prefill.json"
_METRICS = ("f1", "exact_match", "acc")


def main() -> None:
    """Measure, or report."""
    options = _parser().parse_args()
    commands = {"measure": measure, "seconds": seconds, "report": report}
    if options.what == "ledger":
        print(markdown_table(*shares()))
    else:
        commands[options.what](options)


def measure(options: argparse.Namespace) -> None:
    """Sweep over prompt exits and fixed depths."""
    exits = _split(options.prompt_exits)
    points = ["mode=full", *(f"mode=full,prompt_exit={layer}" for layer in exits)]
    points += [f"exit_rule=fixed_depth,exit_layers={layer}" for layer in _split(options.depths)]
    points += [f"prompt_exit={layer}" for layer in _split(options.with_exits)]
    for maps in options.prompt_maps:
        mapped = {layer: f"prompt_exit={layer},prompt_maps={maps.format(layer)}" for layer in exits}
        points += [f"mode=full,{one}" for one in mapped.values()]
        points += [mapped[layer] for layer in _split(options.with_exits) if layer in mapped]
    given = ["--model", options.model, "--model_args", options.model_args]
    given += ["--tasks", options.tasks, "--limit", options.limit]
    given += ["--batch_size", options.batch_size, "--output_path", options.output_path]
    sweep([*given, *(part for point in points for part in ("--point", point))])


def seconds(options: argparse.Namespace) -> None:
    """Seconds of a prefill for each exit, and at full depth, into the folder of the sweep."""
    lm = load_lm(options.model, options.model_args, batch_size=1)
    torch.manual_seed(0)
    prompt = torch.randint(5, lm.stack.vocab_size, (options.tokens + 1,)).tolist()
    exits = _split(options.prompt_exits)
    folders = [(layer, maps.format(layer)) for maps in options.prompt_maps for layer in exits]
    ways: list[PromptExit | None] = [None, *(PromptExit(int(layer)) for layer in exits)]
    ways += [PromptExit(int(layer), lm.load_prompt_maps(folder)) for layer, folder in folders]
    took: list[list[float]] = [[] for _ in ways]
    with torch.inference_mode():
        prefill(lm.stack, [prompt])
        for _ in range(options.rounds):
            for exit_at, own in zip(ways, took, strict=True):
                start = time.process_time()
                prefill(lm.stack, [prompt], exit_at)
                own.append(time.process_time() - start)
    found = []
    for way, own in zip(ways, took, strict=True):
        layer, maps = way or (None, None)
        kind = None if maps is None else _kind(maps.config.translator, maps.config.group)
        found.append({"prompt_exit": layer, "maps": kind, "seconds": statistics.median(own)})
    folder = folder_name(options.model, lm.early_exit_run.live.settings["pretrained"])
    path = Path(options.output_path) / folder / _SECONDS
    write_json(path, {"tokens": options.tokens, "rounds": options.rounds, "prefill": found})


def report(options: argparse.Namespace) -> None:
    """Write the data and the picture, print the tables."""
    data = {"settings": _settings(options.folders), "prefill": _prefills(options.folders)}
    path = Path(options.data)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part, found in data.items():
        measured = {one["checkpoint"] for one in found}
        found += [one for one in before.get(part, ()) if one["checkpoint"] not in measured]
    write_json(path, data)
    figure = picture(data["settings"])
    save(figure, Path(options.picture), dpi=110)
    for group in groups_of(data["settings"]):
        print(f"\n{group[0]['checkpoint']}, {group[0]['task']}, {group[0]['documents']} documents")
        print(table(group))
    print()
    print(prefill_table(data["prefill"]))


def shares() -> tuple[list[str], list[list[str]]]:
    """Heading and rows: what prompts that exit cost, as shares of full depth's prefill."""
    head = ["checkpoint", *(f"exit at {quarter}/4 of the layers" for quarter in (1, 2, 3))]
    rows = []
    for name, costs in published().items():
        exits = (costs.n_layers * quarter // 4 for quarter in (1, 2, 3))
        bills = [Ledger(costs, prompt_exit=layer).answer(CONTEXT, []) for layer in exits]
        spent = [bill.prompt / (bill.prompt + bill.prompt_saved) for bill in bills]
        rows.append([name, *map(percent, spent)])
    return head, rows


def _settings(folders: Sequence[str]) -> list[dict[str, Any]]:
    """Every setting and task, by one metric, F1 rather than exact matches."""
    library = load([Path(folder) for folder in folders])
    board = build(library)
    gaps = {(*_place(one.row), one.against): one for one in board.comparisons if _tested(one)}
    plain = {_apart(entry): entry for entry in board.entries if _maps(entry) is None}
    metrics: dict[str, set[str]] = {}
    for entry in board.entries:
        metrics.setdefault(entry.row.task, set()).add(entry.row.key.metric)
    chosen = {
        task: next((one for one in _METRICS if one in names), min(names))
        for task, names in metrics.items()
    }
    found = (entry for entry in board.entries if entry.row.key.metric == chosen[entry.row.task])
    settings = []
    for entry in found:
        if entry.row.run.is_group(entry.row.task):
            continue
        one = _setting(entry, gaps)
        if _maps(entry) is not None and (other := plain.get(_apart(entry))) is not None:
            one["more_agreement_than_without_maps"] = _gain(library, entry, other)
        settings.append(one)
    return settings


def _place(row: Row) -> tuple[object, ...]:
    """Of all metrics' rows of one run and task."""
    return row.run.path, row.task


def _tested(one: Comparison) -> bool:
    return one.metric == AGREEMENT and one.difference is not None and one.difference.tested


def _maps(entry: Entry) -> str | None:
    """The kind of a run's prompt maps, in words."""
    maps = (entry.row.run.early_exit or {}).get("prompt_maps")
    return None if maps is None else _kind(maps["translator"], maps["group"])


def _kind(translator: str, group: int) -> str:
    return translator if group == 1 else f"{translator}, {group} layers each"


def _apart(entry: Entry) -> tuple[object, ...]:
    """All of an entry but its prompt maps."""
    row, settings = entry.row, entry.row.run.settings
    names = ("mode", "prompt_exit", "threshold", "exit_rule", "heads_fingerprint")
    return row.checkpoint, row.task, row.key, *(str(settings.get(name)) for name in names)


def _gain(library: Library, entry: Entry, other: Entry) -> list[float] | None:
    """The paired difference in agreement, with its 95 % interval; ``None`` without one."""
    key = MetricKey(AGREEMENT, entry.row.key.filter)
    try:
        gap = compare(library, entry.row.run, other.row.run, entry.row.task, key)
    except MismatchError:
        return None
    return _interval(gap)


def _interval(gap: Difference | None) -> list[float] | None:
    """A mean difference and the ends of its interval."""
    return [gap.mean, gap.low, gap.high] if gap is not None and gap.tested else None


def _setting(entry: Entry, gaps: Mapping[tuple[object, ...], Comparison]) -> dict[str, Any]:
    row, settings = entry.row, entry.row.run.settings
    total = next((one for one in entry.baselines if one.account == "total"), None)
    line, depth = "exits", static_depth(row.run)
    if settings.get("mode") == "full":
        line = "full-depth answers"
    elif depth is not None:
        line = "fixed depth"
    maps = _maps(entry)
    line = line if maps is None else f"{line}, maps"
    found = {
        "checkpoint": Path(row.checkpoint).name if row.checkpoint[:1] == "/" else row.checkpoint,
        "task": row.task,
        "documents": row.run.documents(row.task),
        "line": line,
        "prompt_exit": settings.get("prompt_exit"),
        "maps": maps,
        "fixed_depth": depth,
        "layers": row.run.layers,
        "metric": row.key.metric,
        "quality": _pair(row.quality),
        "full_depth": _pair(row.full_depth),
        "agreement": _pair(row.agreement),
        "consistency": _pair(row.consistency),
        "flops_saved": saving_of(row),
        "flops_saved_total": saving_of(row, "total"),
    }
    if total is not None:
        gap = gaps.get((*_place(row), total.name))
        found["fixed_depth_of_equal_total"] = {
            "depth": total.depth,
            "quality": total.quality,
            "agreement": total.agreement,
            "verdict": total.verdict,
            "difference": None if gap is None else _interval(gap.difference),
        }
    return found


def _pair(value: Value | None) -> list[float | None] | None:
    """A mean and its standard error."""
    return None if value is None else [value.mean, value.stderr]


def _prefills(folders: Sequence[str]) -> list[dict[str, Any]]:
    files = [path for folder in folders for path in sorted(Path(folder).rglob(_SECONDS))]
    return [
        {"checkpoint": _short(path.parent.name), **json.loads(path.read_text(encoding="utf-8"))}
        for path in files
    ]


def _short(folder: str) -> str:
    """A checkpoint's name, of the folder of its points."""
    model, _, name = folder.partition("__")
    return f"tiny/{model.removeprefix('dynamax-')}" if name == "tiny" else name.rpartition("__")[2]


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("measure", "seconds"):
        one = commands.add_parser(name)
        one.add_argument("--model", default="dynamax-mistral")
        one.add_argument("--model_args", default="pretrained=tiny")
        one.add_argument("--prompt_exits", default="", help="layers at which prompts exit")
        one.add_argument("--output_path", required=True)
        one.add_argument(
            "--prompt_maps",
            action="append",
            default=[],
            help="folders of prompt maps, with {} for the layer; all prompt exits with these too",
        )
        if name == "seconds":
            one.add_argument("--tokens", type=int, default=256, help="of the prompt")
            one.add_argument("--rounds", type=int, default=9)
            continue
        one.add_argument("--tasks", required=True)
        one.add_argument("--limit", default="16")
        one.add_argument("--batch_size", default="16")
        one.add_argument("--with_exits", default="", help="the same with answers under exits")
        one.add_argument("--depths", default="", help="fixed depths")
    commands.add_parser("ledger")
    last = commands.add_parser("report")
    last.add_argument("folders", nargs="+")
    last.add_argument("--data", required=True, help="the JSON file to write")
    last.add_argument("--picture", required=True, help="the picture's path without suffix")
    return parser


if __name__ == "__main__":
    sys.exit(main())
