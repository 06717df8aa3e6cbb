"""Speed of every family of the table against transformers, on small random models of one size.

Both decode the same prompts at full depth in alternating rounds, with one thread, by the process's
own processor time. Prints the table of ``docs/models.md``, and writes it under ``--output_path``:

    python -m benchmarks.families --output_path benchmarks/speed/families
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dynamax_lm.bench.decode import ours, theirs
from dynamax_lm.bench.limits import bandwidth
from dynamax_lm.bench.rows import Hardware, Row, write
from dynamax_lm.bench.subject import Subject, wrap
from dynamax_lm.bench.timing import medians, samples, use_clock
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.decoders.recurrent_layer import RecurrentLayer

PROMPT, NEW = 32, 32
"""Tokens of a prompt, and of an answer."""

SCANS = ((1, 512), (8, 64))
"""Rows and tokens of a scan."""

_LAYERS, _WIDTH = 6, 256
_SHARED: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": _WIDTH,
    "intermediate_size": 768,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": None,
}
_STATE = 16
_RAW_STEP = -3.0
"""Step sizes of about 0.05 in all families: longer ones would leave denormal numbers in some."""
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": _STATE}
_ALTERNATING = ["linear_attention", "full_attention"] * (_LAYERS // 2)
_OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 64},
    "gemma3_text": {"query_pre_attn_scalar": 64},
    "mixtral": {"num_local_experts": 8, "intermediate_size": 256},
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
    },
    "mamba": {"state_size": _STATE, "time_step_rank": 16, "intermediate_size": 512},
    "falcon_mamba": {"state_size": _STATE, "time_step_rank": 16, "intermediate_size": 512},
    "mamba2": {"num_heads": 8, "head_dim": 64, "state_size": _STATE, "n_groups": 1},
    "bamba": {**_MAMBA2, "attn_layer_indices": [1, 3, 5]},
    "granitemoehybrid": {
        **_MAMBA2,
        "layer_types": _ALTERNATING,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 256,
        "shared_intermediate_size": 256,
        "position_embedding_type": "rope",
    },
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 512},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention"] * (_LAYERS // 3),
        "mamba_num_heads": 8,
        "mamba_head_dim": 64,
        "n_groups": 1,
        "ssm_state_size": _STATE,
    },
    "jamba": {
        "mamba_d_state": _STATE,
        "mamba_dt_rank": 16,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 8,
        "intermediate_size": 256,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * (_LAYERS // 2),
        "num_key_value_heads": 4,
        "head_dim": 128,
        "n_mamba_heads": 8,
        "mamba_d_state": _STATE,
        "use_shared_attention_adapter": True,
        "adapter_rank": 16,
        "use_mem_rope": True,
        "tie_word_embeddings": True,
    },
}
"""What a family's own configuration needs for a model of about the same size as the others."""


def subject_of(family: str, rounds: int) -> Subject:
    """A random model of a family, and its decoder."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **_SHARED | _OWN.get(family, {}))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("dt_bias", "dt_proj.bias")):
                weight.fill_(_RAW_STEP)
    return wrap("dynamax", model, rounds=rounds, quick=False, seed=0, batch=8)


def answers(family: str, subject: Subject, batch: int) -> Row:
    """Whole answers at full depth, prompt and vocabulary included."""
    prompts = subject.prompts(batch, PROMPT)
    contestants = {
        "ours": ours(subject, prompts, NEW),
        "transformers": theirs(subject, prompts, NEW),
    }
    ratio, medians = paired(samples(contestants, subject.rounds))
    what = f"{NEW} tokens after {PROMPT}, batch {batch}"
    meaning = "transformers' generate / ours"
    return Row("Answers", family, what, meaning, ratio, 1.0, seconds=medians)


def paired(taken: Mapping[str, list[float]]) -> tuple[float, dict[str, float]]:
    """The median ratio of the second contestant's time to the first's, and their medians."""
    first, second = taken.values()
    ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
    return ratio, medians(taken)


def recurrent_layers(stack: Any) -> Iterator[RecurrentLayer]:
    """The state-space layers of a decoder, those inside other layers too."""
    for layer in stack.layers:
        inner = getattr(layer, "_recurrent", layer)
        if isinstance(inner, RecurrentLayer):
            yield inner


def scan_of(subject: Subject, batch: int, tokens: int) -> Any:
    """One layer's scan of random inputs, from a state of zeros."""
    layer: Any = next(recurrent_layers(subject.stack))
    state = layer.new_state(batch)
    convolved = torch.randn(batch, tokens, state.conv.shape[2])
    mixer = layer.space.mixer
    dt = torch.zeros(batch, tokens, getattr(mixer, "num_heads", 1))
    return lambda: layer._scan_state(convolved, dt, None, output=True)


def scans(family: str, subject: Subject, reference: Subject) -> Iterator[Row]:
    """A layer's scan against that of ``mamba2`` with inner width and state size alike."""
    if not list(recurrent_layers(subject.stack)):
        return
    for batch, tokens in SCANS:
        contestants = {
            "Mamba-2": scan_of(reference, batch, tokens),
            "ours": scan_of(subject, batch, tokens),
        }
        ratio, medians = paired(samples(contestants, 3 * subject.rounds))
        what = f"scan of one layer, {batch} x {tokens}"
        meaning = "this / mamba2's"
        yield Row("Scans", family, what, meaning, ratio, 2.0, at_most=True, seconds=medians)


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the documentation, a line for each family, from the rows of ``bench.json``."""
    lines = ["| `model_type` | batch 1 | batch 8 | scan 1 x 512 | scan 8 x 64 |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for family in dict.fromkeys(row["model"] for row in rows):
        cells = [f"{row['ratio']:.2f}" for row in rows if row["model"] == family]
        lines.append(f"| `{family}` | {' | '.join([*cells, '', ''][:4])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(sorted(FAMILIES)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output_path", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    use_clock("processor")
    hardware = Hardware.here(bandwidth("cpu"))
    command = f"python -m benchmarks.families --rounds {given.rounds}"
    rows: list[Row] = []
    with torch.inference_mode():
        reference = subject_of("mamba2", given.rounds)
        for family in given.families.split(","):
            subject = subject_of(family, given.rounds)
            found = [answers(family, subject, batch) for batch in (1, 8)]
            found += scans(family, subject, reference)
            for row in found:
                print(" | ".join(row.cells()), flush=True)
            rows += found
            if given.output_path:
                given.output_path.mkdir(parents=True, exist_ok=True)
                write(given.output_path, rows, hardware, command)
    print(f"\n{hardware.sentence()}\n\n{page([asdict(row) for row in rows])}")


if __name__ == "__main__":
    main()
