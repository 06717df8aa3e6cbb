"""``python -m benchmarks.real.bins``: heads on weights drawn from the quantisation bins.

    python -m benchmarks.real.bins --pretrained SmolLM2 --gguf SmolLM2-135M-Instruct.Q4_1.gguf \
        --heads smollm2-135m-instruct --threshold 0.85 --limit 24 \
        --results benchmarks/real/results/smollm2-bins.json

The original weights, from which a GGUF file was made, are not here, but each lies within half a
quantisation step of the dequantised one. This draws every weight uniformly from its bin, saves the
checkpoint, and evaluates the heads on it beside the dequantised weights: an estimate of how they do
on the original ones. A draw is farther from the network that was trained than the originals are,
since the quantisation error is replaced by another one and not removed. Needs the package ``gguf``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynamax_lm.bench.evaluation import evaluate
from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import load_lm
from dynamax_lm.harness.plugin.task_folder import own_tasks

TASKS = ("dynamax_truthfulqa_gen_sample", "dynamax_coqa_sample", "dynamax_triviaqa_sample")
METRICS = ("agreement", "flops_saved", "consistency", "layers_used")
_BLOCK = 32
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
Floats = NDArray[np.float32]


class Bins(NamedTuple):
    """What each weight of a tensor may have been before quantisation.

    Attributes:
        values: dequantised.
        low: least, of the same shape.
        high: greatest.
    """

    values: Floats
    low: Floats
    high: Floats

    def draw(self, generator: np.random.Generator) -> Floats:
        """Every weight uniformly from its bin."""
        share = generator.random(self.values.shape, dtype=np.float32)
        return self.low + share * (self.high - self.low)


def q4_1(content: NDArray[np.uint8]) -> Bins:
    """Bins of ``Q4_1`` blocks: m + d q, where q is 0..15, of block minimum m and step d.

    Args:
        content: (..., 20 B) bytes: float16 d, float16 m, 16 pairs of q.

    Returns:
        (..., 32 B) each; the extreme bins end at the block's own extremes.
    """
    blocks = content.reshape(-1, 20)
    step = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    least = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    pairs = blocks[:, 4:]
    levels = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.float32)
    return _around(step * levels + least, step, levels, (0, 15), content.shape[:-1])


def q8_0(content: NDArray[np.uint8]) -> Bins:
    """Bins of ``Q8_0`` blocks: d q, where q is -127..127.

    Args:
        content: (..., 34 B) bytes: float16 d, 32 of q.

    Returns:
        (..., 32 B) each; the extreme bins end at the block's largest magnitude.
    """
    blocks = content.reshape(-1, 2 + _BLOCK)
    step = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    levels = blocks[:, 2:].copy().view(np.int8).astype(np.float32)
    return _around(step * levels, step, levels, (-127, 127), content.shape[:-1])


def _around(
    values: Floats, step: Floats, levels: Floats, ends: tuple[int, int], shape: tuple[int, ...]
) -> Bins:
    """Half a step to either side of ``values``, inwards alone at the first and last level."""
    low = np.where(levels <= ends[0], values, values - step / 2)
    high = np.where(levels >= ends[1], values, values + step / 2)
    return Bins(*(one.reshape(*shape, -1) for one in (values, low, high)))


_READERS = {"Q4_1": q4_1, "Q8_0": q8_0}


def read_bins(path: Path, heads: int, key_heads: int) -> Iterator[tuple[str, str, Bins]]:
    """Checkpoint name, quantisation and bins of every quantised tensor of a GGUF file.

    Args:
        path: of the file.
        heads: of attention; rows of q and k stand in llama.cpp's order of rotary pairs.
        key_heads: of keys and values.
    """
    from gguf import GGUFReader

    for tensor in GGUFReader(path).tensors:
        kind = tensor.tensor_type.name
        if kind == "F32":
            continue
        bins = _READERS[kind](np.asarray(tensor.data))
        name = "model.embed_tokens.weight"
        if tensor.name != "token_embd.weight":
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{_NAMES[part]}.weight"
            if part in {"attn_q", "attn_k"}:
                count = heads if part == "attn_q" else key_heads
                bins = Bins(*(_halves(one, count) for one in bins))
        yield name, kind, bins


def _halves(rows: Floats, heads: int) -> Floats:
    """(R, D) with a head's rotary pairs as two halves, as transformers has them."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def drawn(weights: Mapping[str, Tensor], bins: Mapping[str, Bins], seed: int) -> dict[str, Tensor]:
    """A checkpoint's weights, those of ``bins`` drawn anew."""
    generator = np.random.default_rng(seed)
    made = dict(weights)
    for name, one in bins.items():
        made[name] = torch.from_numpy(one.draw(generator))
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    folder = Path(options.pretrained)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    bins, kinds = {}, {}
    for name, kind, one in read_bins(Path(options.gguf), *heads):
        if not np.array_equal(one.values, weights[name].numpy()):
            raise SystemExit(f"{name} of --pretrained is not that of --gguf")
        bins[name] = one
        kinds.setdefault(kind, []).append(name)
    rows = [{"weights": "dequantised"} | _evaluate(folder, options)]
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as place:
            made = Path(place)
            for file in folder.iterdir():
                if file.name != "model.safetensors":
                    shutil.copy(file, made / file.name)
            tensors = drawn(weights, bins, seed)
            gap = {name: _relative(tensors[name], weights[name]) for name in bins}
            save_file(tensors, made / "model.safetensors", {"format": "pt"})
            rows.append({"weights": f"drawn, seed {seed}"} | _evaluate(made, options))
        rows[-1]["difference"] = {
            kind: float(np.mean([gap[one] for one in names])) for kind, names in kinds.items()
        }
    told = {
        "heads": options.heads,
        "threshold": options.threshold,
        "limit": options.limit,
        "tensors": {kind: len(names) for kind, names in kinds.items()},
        "rows": rows,
    }
    write_text(Path(options.results), json.dumps(told, indent=1) + "\n")
    for row in rows:
        print(row["weights"], row["backbone"], json.dumps(row["tasks"]))


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def _evaluate(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Likeness and savings of every task, and how the backbone was recognised."""
    own = {"pretrained": str(folder), "heads": options.heads, "threshold": options.threshold}
    lm = load_lm("dynamax-mistral", own, batch_size=16)
    limit, draws = options.limit, 10  # without draws there would be no standard errors
    results = evaluate(lm, TASKS, own_tasks(), limit=limit, bootstrap_iters=draws)
    block = results["config"]["early_exit"]
    return {
        "backbone": block["heads"]["backbone"],
        "sample_difference": block["heads"]["backbone_difference"],
        "tasks": {
            task: {
                name: results["results"][task][f"{name},none"]
                for name in (*METRICS, *(f"{one}_stderr" for one in METRICS))
                if f"{name},none" in results["results"][task]
            }
            for task in TASKS
        },
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real.bins",
        description="Heads on weights drawn from the quantisation bins of a GGUF file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--pretrained", required=True, help="folder of the dequantised checkpoint")
    add("--gguf", required=True, help="file that it was read from")
    add("--heads", required=True)
    add("--threshold", type=float, required=True)
    add("--limit", type=int, default=24, help="documents of each task")
    add("--seeds", type=int, default=3)
    add("--results", required=True, help="JSON file to write")
    return parser


if __name__ == "__main__":
    main()
