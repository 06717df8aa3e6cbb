"""``python -m benchmarks.criteria.prompt_exits``: the section on prompts of docs/criteria.md.

    python -m dynamax_lm.headroom --model dynamax-mistral --model_args pretrained=tiny \
        --tasks dynamax_triviaqa_sample,dynamax_coqa_sample,dynamax_truthfulqa_mc1_sample \
        --limit 64 --prompt_exits 4,8,12 --prompt_maps maps/mistral-4,maps/mistral-8 \
        --output_path runs
    python -m benchmarks.criteria.prompt_exits runs --data benchmarks/criteria/results/prompts.json

It keeps of each headroom report what the section needs, beside the backbones that the file has, and
prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_json
from dynamax_lm.report.equal_cost import mixtures


def main(argv: Sequence[str] | None = None) -> None:
    """Write the data, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", help="of headroom reports")
    parser.add_argument("--data", required=True, help="the JSON file to write")
    options = parser.parse_args(argv)
    files = [path for one in options.folders for path in sorted(Path(one).rglob("headroom.json"))]
    found = [kept(json.loads(path.read_text(encoding="utf-8"))) for path in files]
    path = Path(options.data)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    by_title = {one["title"]: one for one in [*before, *found]}  # a new one in the old one's place
    data = list(by_title.values())
    write_json(path, data)
    sys.stdout.write(f"{table(data)}\n")


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """Of a headroom report, its title and all tasks' prompts and exits."""
    pool = report["groups"][-1]
    return {
        "title": report["title"],
        "layers": report["layers"],
        "tasks": report["settings"]["tasks"],
        "documents": pool["documents"],
        "tokens": pool["tokens"],
        "prompts": [
            {**one, "maps": None if one["maps"] is None else Path(one["maps"]).name}
            for one in pool["prompts"]
        ],
        "exits": [{name: one[name] for name in ("layer", "agreement")} for one in pool["layers"]],
    }


def table(data: Sequence[dict[str, Any]]) -> str:
    """A row for each way in which prompts exit."""
    head = ["backbone", "prompts exit after", "maps", "all FLOPs saved", "agreement"]
    head += ["fixed depths of equal cost: agreement"]
    rows = [
        [
            one["title"],
            f"{way['layer']} of {one['layers']} layers",
            way["maps"] or "none",
            _interval(way["saved"]),
            _interval(way["agreement"]),
            f"{100 * fixed_depths(one, way['saved']['value']):.1f} %",
        ]
        for one in data
        for way in one["prompts"]
    ]
    return markdown_table(head, rows)


def fixed_depths(report: dict[str, Any], saved: float) -> float:
    """The agreement of the best mixture of two fixed depths that save as much.

    A fixed depth of k layers costs the share k / L: prompts and answers run k layers. The final
    projection of the answers' tokens, which both have, is left out.

    Args:
        report: of :func:`kept`.
        saved: share of all FLOPs.
    """
    depths = [*(one["layer"] for one in report["exits"]), report["layers"]]
    agreement = np.array([*(one["agreement"]["value"] for one in report["exits"]), 1.0])
    costs = np.array(depths, dtype=np.float64) / report["layers"]
    return float((mixtures(costs, 1 - saved) @ agreement).max())


def _interval(found: dict[str, float | None]) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    assert value is not None
    if low is None or high is None:
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
