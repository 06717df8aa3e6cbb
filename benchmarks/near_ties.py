r"""How often do lossless texts differ from full depth's by rounding, and by how much?

    python -m benchmarks.near_ties --dtype bfloat16
    python -m benchmarks.near_ties --model dynamax-mistral \
        --model_args pretrained=tiny,dtype=bfloat16

Without ``--model``, random 4- and 6-layer models of both architectures answer random prompts; else
a checkpoint answers those of a sample task. A verification pass sums in another order than a step
of one token. Where two tokens' logits are within that rounding, another one may be the most likely.
For each text that differs, the gap is full depth's logit of its own token less that of the lossless
one, at the first difference. A gap of 0 is a tie, in which both passes have the same two logits.
``--output_path`` adds the counts and every gap to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_json
from dynamax_lm.common.processor import processor_name
from dynamax_lm.core.looks import looking
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.engine.draft_length import AUTO
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.harness.command_line import Command, add_lm_eval_options

VOCABULARY = 61
KINDS = ("mistral", "mamba2")


class Case(NamedTuple):
    """A batch, and how to decode it losslessly."""

    stack: Any
    requests: Sequence[GenerateRequest]
    policy: ExitPolicy
    draft_length: int
    heads: Any = None


class Logits:
    """Chooses the most likely token, and keeps the logits (V,) of every step."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, answer: Sequence[int], logits: Tensor) -> int:
        """The most likely token after ``answer``."""
        del self.seen[len(answer) :]
        self.seen.append(logits[0].float())
        return int(logits.argmax(-1))


class Found(NamedTuple):
    """What was compared.

    Attributes:
        texts: number of answers.
        tokens: full depth's tokens that were compared: of each text, those up to a difference.
        gaps: of the texts that differ, between the logits of the two tokens at the first.
    """

    texts: int
    tokens: int
    gaps: list[float]


def compare(cases: Iterable[Case]) -> Found:
    """Decode every case at full depth and losslessly."""
    texts = tokens = 0
    gaps: list[float] = []
    for case in cases:
        kept = [Logits() for _ in case.requests]
        asked = [replace(one, chooser=own) for one, own in zip(case.requests, kept, strict=True)]
        full = generate(case.stack, asked)
        ours = generate(
            *(case.stack, case.requests),
            policy=case.policy,
            heads=case.heads,
            draft_length=case.draft_length,
        )
        for one, other, logits in zip(full, ours, kept, strict=True):
            texts += 1
            theirs, lossless = one.trace.tokens, other.trace.tokens
            pairs = enumerate(zip(theirs, lossless, strict=False))
            place = next((at for at, (a, b) in pairs if a != b), None)
            tokens += len(theirs) if place is None else place + 1
            if place is not None:
                row = logits.seen[place]
                gaps.append(float(row[theirs[place]] - row[lossless[place]]))
    return Found(texts, tokens, gaps)


def random_cases(kind: str, texts: int, dtype: torch.dtype, seed: int = 0) -> Iterator[Case]:
    """Random models of ``kind``, prompts, exits, thresholds and draft lengths."""
    rng = random.Random(seed)
    for number in range(-(-texts // 4)):
        layers = rng.choice([4, 6])
        stack = _random_stack(kind, layers, dtype, number)
        prompts = [tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, 12))) for _ in range(4)]
        requests = [GenerateRequest(one, 24, lambda answer: False) for one in prompts]
        policy = ExitPolicy((rng.randrange(1, layers),), "top_prob", rng.choice([0.0, 0.1, 0.3]))
        yield Case(stack, requests, policy, rng.choice([AUTO, 2, 4, 8]))


def _random_stack(kind: str, layers: int, dtype: torch.dtype, seed: int) -> Any:
    from transformers import Mamba2Config, Mamba2ForCausalLM, MistralConfig, MistralForCausalLM

    from dynamax_lm.decoders.attention import MistralStack
    from dynamax_lm.decoders.mamba2 import Mamba2Stack

    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        **{"vocab_size": VOCABULARY, "num_hidden_layers": layers, "hidden_size": 16},
        **{"bos_token_id": 1, "eos_token_id": None, "pad_token_id": None},
    }
    if kind == "mamba2":
        own = {"num_heads": 4, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 2}
        model: Any = Mamba2ForCausalLM(Mamba2Config(**shared, **own))
    else:
        own = {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = MistralForCausalLM(MistralConfig(**shared, **own))
    for parameter in model.parameters():
        if parameter.dim() == 2:  # wide enough that exits and full depth differ
            torch.nn.init.normal_(parameter, std=0.3)
    made = Mamba2Stack if kind == "mamba2" else MistralStack
    return made(model.to(dtype).eval())


def checkpoint_cases(lm: Any, options: argparse.Namespace) -> Iterator[Case]:
    """The prompts of a sample task, in batches."""
    from benchmarks.lossless import sample_batches

    confidence = looking(options.confidence, lm.settings.look.name)
    exit_layer = options.exit or max(1, lm.stack.n_layers // 2)
    policy = ExitPolicy((exit_layer,), confidence, options.threshold)
    size = int(options.batch_size)
    for batch in sample_batches(lm, options.sample, options.texts, size, options.new):
        yield Case(lm.stack, batch, policy, AUTO, lm.exit_heads)


def main() -> None:
    """Print a table, one row a model."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    found: dict[str, Found] = {}
    with torch.inference_mode():
        if options.model:
            lm = Command(options).load(options.model_args)
            given = ",".join(f"{name}={value}" for name, value in options.model_args.items())
            name = f"{options.model} {given}"
            found[name] = compare(checkpoint_cases(lm, options))
        else:
            for kind in KINDS:
                cases = random_cases(kind, options.texts, getattr(torch, options.dtype))
                found[f"random {kind}, {options.dtype}"] = compare(cases)
    rows = [_row(name, one) for name, one in found.items()]
    print(f"\n{processor_name()}, 1 thread\n")
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    if options.output_path:
        path = Path(options.output_path)
        known = json.loads(path.read_text("utf-8")) if path.exists() else []
        machine = {"processor": processor_name(), "torch": torch.__version__}
        kept = ({"model": name, **one._asdict(), **machine} for name, one in found.items())
        write_json(path, [*known, *kept])


def _row(name: str, found: Found) -> dict[str, str]:
    gaps = found.gaps
    return {
        "model": name,
        "texts": str(found.texts),
        "that differ": str(len(gaps)),
        "tokens compared": str(found.tokens),
        "median gap": f"{median(gaps):.4f}" if gaps else "",
        "largest gap": f"{max(gaps):.4f}" if gaps else "",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_lm_eval_options(parser)
    parser.add_argument("--dtype", default="bfloat16", help="of the random models")
    parser.add_argument("--texts", type=int, default=400, help="of each model")
    parser.add_argument("--sample", default="dynamax_coqa_sample", help="its prompts are used")
    parser.add_argument("--new", type=int, default=32, help="most tokens of a checkpoint's answer")
    parser.add_argument("--exit", type=int, help="by default after half of the layers")
    parser.add_argument("--confidence", default="top_prob")
    parser.add_argument("--threshold", type=float, default=0.4)
    parser.set_defaults(tasks="dynamax_coqa_sample", model=None)
    return parser


if __name__ == "__main__":
    main()
