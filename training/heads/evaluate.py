r"""Heads against top probability on sample tasks, over thresholds; the model loads once.

    python -m training.heads.evaluate --model mistral --heads heads/tiny-mistral \
        --tasks dynamax_triviaqa_sample,dynamax_coqa_sample --output_path ../runs/heads-mistral.json

`top_prob` is measured twice: without heads, and with the heads' translators.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import lm_eval

from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import load_lm

MODELS = {"mistral": "dynamax-mistral", "mamba": "dynamax-mamba", "hybrid": "dynamax"}
"""By embedded model, the lm-eval model that runs it."""
KEYS = ("flops_saved", "agreement", "layers_used", "consistency")


def measure(model: Any, tasks: list[str], limit: int | None, **own: Any) -> list[dict[str, Any]]:
    """One row a task under the settings `own`."""
    model.change(**own)
    results = lm_eval.simple_evaluate(
        model=model, tasks=tasks, limit=limit, bootstrap_iters=0, verbosity="ERROR"
    )
    rows = []
    for task in tasks:
        found = results["results"][task]
        rows.append({"task": task, **own, **{key: found.get(f"{key},none") for key in KEYS}})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--heads", required=True)
    parser.add_argument("--tasks", default="dynamax_triviaqa_sample,dynamax_coqa_sample")
    parser.add_argument("--thresholds", default="0.8,0.9,0.95,0.98")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output_path", type=Path)
    args = parser.parse_args(arguments)
    tasks = args.tasks.split(",")
    options = {"pretrained": f"tiny-{args.model}", "heads": "none"}
    model = load_lm(MODELS[args.model], options, batch_size=args.batch_size)
    rows: list[dict[str, Any]] = []
    kinds = (("head", args.heads), ("top_prob", "none"), ("top_prob", args.heads))
    settings = [
        {"confidence": confidence, "heads": heads, "threshold": float(threshold)}
        for threshold in args.thresholds.split(",")
        for confidence, heads in kinds
    ]
    settings.append({"confidence": "oracle", "heads": args.heads, "threshold": 0.5})
    for own in settings:
        rows += measure(model, tasks, args.limit, **own)
        for row in rows[-len(tasks) :]:
            shown = "  ".join(f"{key} {row[key]:.3f}" for key in KEYS if row[key] is not None)
            print(
                f"{row['task']:26} {row['confidence']:9} {row['heads'][-18:]:18} "
                f"{row['threshold']:.2f}  {shown}",
                flush=True,
            )
        if args.output_path:
            write_text(args.output_path, json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
