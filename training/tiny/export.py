"""Turns a checkpoint into the folder that ships: weights, tokenizer, loss curve, model card.

    python -m training.tiny.export --run ../runs/tiny/mistral --data_dir ../shared/data/train

The folder that was there stays until the new one is complete.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from dynamax_lm.common.outputs import replacing, write_json, write_text
from dynamax_lm.common.plots import new_figure, save_figure
from training.tiny.card import card
from training.tiny.evaluate import evaluate
from training.tiny.models import build
from training.tiny.tokenizer import MAX_LENGTH
from training.tiny.train import CHECKPOINT, LOG

SHIPPED = Path(__file__).parents[2] / "dynamax_lm" / "decoders" / "tiny"
LOGS = Path(__file__).parent / "logs"


def write_model(state: dict[str, Any], run: Path, folder: Path) -> None:
    """Writes the averaged weights in bfloat16 and the tokenizer."""
    model = build(state["settings"]["model"])
    model.load_state_dict(state["average"], strict=False)
    model.tie_weights()
    model.generation_config.max_length = MAX_LENGTH
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(run / "tokenizer").save_pretrained(folder)


def draw_losses(log: Path, picture: Path) -> None:
    """Draws each layer's cross-entropy over the run."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = new_figure(7, 4, constrained=False)
    axes = figure.subplots()
    for layer in sorted({name for row in rows for name in row["loss"]}, key=int):
        points = [(r["tokens"] / 1e6, r["loss"][layer]) for r in rows if layer in r["loss"]]
        axes.plot(*zip(*points, strict=True), label=f"after layer {layer}", linewidth=0.8)
    axes.set(xlabel="tokens seen (millions)", ylabel="cross-entropy on the text (nats a token)")
    axes.set_ylim(top=4.5)
    axes.legend()
    figure.tight_layout()
    save_figure(figure, picture.with_suffix(""), dpi=80, kinds=("png",))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the training's output_path")
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--output_path", type=Path, help="[dynamax_lm/decoders/tiny/<model>]")
    parser.add_argument("--prompts", type=int, default=111, help="coqa prompts answered [111]")
    args = parser.parse_args(arguments)

    state = torch.load(args.run / CHECKPOINT, weights_only=True)
    name = state["settings"]["model"]
    target: Path = args.output_path or SHIPPED / name
    with replacing(target) as fresh:
        metrics = _write(state, args, fresh)
    print(json.dumps(metrics, indent=1))


def _write(state: dict, args: argparse.Namespace, fresh: Path) -> dict:
    """The model's folder with its card and losses; returns what was measured of it."""
    name = state["settings"]["model"]
    write_model(state, args.run, fresh)
    metrics = evaluate(fresh, args.data_dir, args.data_dir.parent / "eval", args.prompts)
    rows = (args.run / LOG).read_text(encoding="utf-8").splitlines()
    kept = "".join(row + "\n" for row in rows if json.loads(row)["step"] <= state["step"])
    LOGS.mkdir(exist_ok=True)
    write_text(LOGS / f"{name}.jsonl", kept)
    write_json(LOGS / f"{name}.json", metrics, indent=1)
    draw_losses(LOGS / f"{name}.jsonl", LOGS / f"{name}.png")
    shutil.copy(LOGS / f"{name}.png", fresh / "loss.png")
    (fresh / "README.md").write_text(card(state, metrics), encoding="utf-8")
    (fresh / "model.safetensors").chmod(0o644)
    return metrics


if __name__ == "__main__":
    main()
