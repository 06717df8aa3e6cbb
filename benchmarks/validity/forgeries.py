"""Changes of many values of a results folder at once, each file still plausible by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.validity.run_folder import GROUP, read_lines, remake_manifest, shows, write_lines

Forgery = Callable[[Path, dict[str, Any], dict[str, list[Any]], dict[str, list[Any]]], None]


def forgeries() -> dict[str, Forgery]:
    """Changes of many values at once: of results, samples by file name, and traces by file name."""

    def each(files: dict[str, list[Any]], change: Callable[[Any], None]) -> None:
        for lines in files.values():
            for line in lines:
                change(line)

    def right(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(samples, lambda s: s.update(acc=1.0) if "acc" in s else None)
        for name, numbers in results["results"].items():
            if name != GROUP and "acc,none" in numbers:
                numbers |= {"acc,none": 1.0, "acc_stderr,none": 0.0}

    def never(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        results["config"]["early_exit"]["settings"]["threshold"] = 1.0

    def unsure(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(traces, lambda row: row.update(confidence=0.5))

    def tokens(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(traces, lambda r: r.update({n: r[n] ^ 1 for n in ("token", "emitted", "full_depth")}))

    def responses(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        def change(sample: Any) -> None:
            if isinstance(sample["resps"][0][0], str):
                sample |= {"resps": [["Paris"]], "filtered_resps": ["Paris"]}

        each(samples, change)

    def targets(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(samples, lambda s: s.update(target="['Paris']"))

    def likelihoods(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        def change(sample: Any) -> None:
            for index, (pair,) in enumerate(sample["resps"]):
                if isinstance(pair, list):
                    pair[0] = sample["filtered_resps"][index][0] = str(-1.0 - index)

        each(samples, change)

    def certificate(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        found = results["config"]["early_exit"]["certificate"]
        found["risk"] = 0.001
        for label in found["applies"].values():
            label |= {"certified": True, "reason": None}

    def unrecorded(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        certificate(folder, results, samples, traces)
        del results["config"]["early_exit"]["certificate"]["setups"]

    def invented(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        applies = {task: {"certified": True, "reason": None} for task in results["configs"]}
        results["config"]["early_exit"]["certificate"] = {
            **{"metric": "agreement", "risk": 0.001, "delta": 0.05, "threshold": 0.7},
            "applies": applies,
        }

    def renamed(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        results["config"]["early_exit"]["settings"]["pretrained"] = "mistralai/Mistral-7B-v0.3"

    def agreeing(folder: Path, results: Any, samples: Any, traces: Any) -> None:
        each(traces, lambda row: row.update(full_depth=row["emitted"]))
        each(samples, lambda s: s.update(agreement=1.0) if "agreement" in s else None)
        block = results["config"]["early_exit"]
        for totals in (block, *block["tasks"].values()):
            totals |= {"agreement": 1.0, "agreeing_tokens": totals["compared_tokens"]}
        for table in (results["results"], results["groups"]):
            for numbers in table.values():
                numbers |= {"agreement,none": 1.0, "agreement_stderr,none": 0.0}

    return {
        "every acc set to 1, with its mean": right,
        "threshold set to 1": never,
        "every confidence set to 0.5": unsure,
        "every token id replaced": tokens,
        "every response replaced": responses,
        "every target replaced": targets,
        "every log-likelihood replaced": likelihoods,
        "certificate's risk and `applies` rewritten": certificate,
        "certificate rewritten, the record of rendering left out": unrecorded,
        "certificate invented": invented,
        "pretrained renamed": renamed,
        "full_depth := emitted, with all totals": agreeing,
    }


def forge(forgery: Forgery, results: Path, target: Path) -> list[str]:
    """What verification says of a copy with a forgery and its digests made again."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(results.parent.parent, target)
    copied = target / results.parent.name / results.name
    data = json.loads(copied.read_text(encoding="utf-8"))
    samples = {str(p): read_lines(p) for p in copied.parent.glob("samples_*.jsonl")}
    traces = {str(p): read_lines(p) for p in (target / "traces").glob("*.jsonl")}
    forgery(target, data, samples, traces)
    copied.write_text(json.dumps(data), encoding="utf-8")
    for path, lines in (samples | traces).items():
        write_lines(Path(path), lines)
    # The settings name the folder where the traces lay; the copies beside the results are meant.
    away = results.parent.parent / "traces"
    hidden = away.with_name("away")
    away.rename(hidden)
    try:
        remake_manifest(copied)
        return shows(target)
    finally:
        hidden.rename(away)
