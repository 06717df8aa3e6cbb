r"""``python -m benchmarks.real.recipes``: other projects' ways to train an exit's logits, and ours.

    python -m benchmarks.real.recipes --model_args pretrained=SmolLM2 --states runs/real/states \
        --exit_layers 16+22+28 --study runs/real/study \
        --output_path benchmarks/real/results/smollm2-recipes.json

All see the same tokens in the same order, and are compared on the same test tokens, among the
short list of the vocabulary. What is published was read in the code of the tuned lens
(AlignmentResearch/tuned-lens at abdac0c) and of DSSD (FlorianVal/BranchyLLM at b664be3).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.criteria.fit import set_rate, warm_cosine
from benchmarks.criteria.states import States
from benchmarks.real.__main__ import study_parser
from benchmarks.real.quality import Quality, some_tokens
from benchmarks.real.run import load, read_data
from benchmarks.real.vocabulary import ShortList
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_text
from dynamax_lm.harness.command_line import run_command
from dynamax_lm.heads import ExitHeads
from dynamax_lm.heads.train.losses import distillation
from dynamax_lm.settings.exits import read_exit_layers

_PIECE = 256

Logits = Callable[[nn.Module, Tensor], Tensor]


class Method(NamedTuple):
    """How the logits of every exit are made and trained.

    Attributes:
        name: as tables print it.
        start: of an exit's layer, the module that is trained.
        logits: of the module and hidden states (n, D), (n, S) over the short list.
        optimizer: of all parameters, with its highest rate.
        rate: share of the highest rate, in [0, 1], at a step of so many.
    """

    name: str
    start: Callable[[int], nn.Module]
    logits: Logits
    optimizer: Callable[[Any], torch.optim.Optimizer]
    rate: Callable[[int, int], float]


def methods(short: ShortList, fitted: ExitHeads) -> Iterator[Method]:
    """Ours, the tuned lens's, the two crossed, and DSSD's.

    Args:
        short: of the vocabulary.
        fitted: translators by least squares.
    """
    width = short.weight.shape[1]

    def translated(module: nn.Module, hidden: Tensor) -> Tensor:
        return short.unembed(hidden + module(hidden))

    def own(module: nn.Module, hidden: Tensor) -> Tensor:
        logits: Tensor = module(short.norm(hidden).float())
        return logits

    def least_squares(layer: int) -> nn.Module:
        theirs: Any = fitted.translators[str(layer)]
        return _linear(theirs.weight, theirs.bias)

    def identity(layer: int) -> nn.Module:
        del layer
        return _linear(torch.zeros(width, width), torch.zeros(width))

    def unembedding(layer: int) -> nn.Module:
        del layer
        return _linear(short.weight, None)

    def random(layer: int) -> nn.Module:
        del layer
        return nn.Linear(width, len(short.ids), bias=False)

    ours = partial(torch.optim.AdamW, lr=5e-4, weight_decay=0.0)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    adam = partial(torch.optim.AdamW, lr=1e-4)
    yield Method("least squares, then AdamW (ours)", least_squares, translated, ours, warm_cosine)
    yield Method("identity, then SGD (tuned lens)", identity, translated, sgd, _falling)
    yield Method("least squares, then SGD", least_squares, translated, sgd, _falling)
    yield Method("identity, then AdamW", identity, translated, ours, warm_cosine)
    yield Method("own unembedding, random start (DSSD)", random, own, adam, _cosine)
    yield Method("own unembedding, from the backbone's", unembedding, own, adam, _cosine)


def train(
    method: Method, states: States, short: ShortList, steps: int, tokens: int
) -> dict[int, nn.Module]:
    """The trained modules by layer; every method sees the same tokens.

    Args:
        method: what is trained, and how.
        states: of training tokens.
        short: of the vocabulary.
        steps: of the optimizer.
        tokens: of a step.
    """
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    modules = {layer: method.start(layer) for layer in states.exits}
    weights = [one for module in modules.values() for one in module.parameters()]
    optimizer = method.optimizer(weights)
    highest = optimizer.param_groups[0]["lr"]
    for step in tqdm(range(steps), desc=method.name):
        set_rate(optimizer, highest * method.rate(step, steps))
        some = np.sort(generator.choice(len(states.token), tokens, replace=False))
        with torch.no_grad():
            full = short.unembed(states.at(len(states.exits), some))
        for number, layer in enumerate(states.exits):
            logits = method.logits(modules[layer], states.at(number, some))
            distillation(logits, full).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return modules


@torch.inference_mode()
def quality(
    method: Method,
    modules: Mapping[int, nn.Module],
    states: States,
    short: ShortList,
    tokens: Sequence[int],
) -> list[Quality]:
    """Of every exit: agreement with full depth's token, divergence over the short list.

    A token of full depth that the list lacks counts as a disagreement.
    """
    sums = np.zeros((len(states.exits), 2))
    for start in range(0, len(tokens), _PIECE):
        some = list(tokens[start : start + _PIECE])
        full = short.unembed(states.at(len(states.exits), some))
        for number, layer in enumerate(states.exits):
            logits = method.logits(modules[layer], states.at(number, some))
            same = short.ids[logits.argmax(-1).numpy()] == states.token[some]
            sums[number] += float(same.sum()), float(distillation(logits, full).sum())
    return [
        Quality(layer, *(row / len(tokens)).tolist())
        for layer, row in zip(states.exits, sums, strict=True)
    ]


def table(found: Mapping[str, Any]) -> str:
    """The results as Markdown: agreement, and divergence in nats, by exit."""
    layers = [one["layer"] for one in found["rows"][0]["exits"]]
    cells = [
        [
            row["method"],
            f"{row['tokens']:,}",
            *(f"{100 * one['agreement']:.1f} % ({one['divergence']:.2f})" for one in row["exits"]),
        ]
        for row in found["rows"]
    ]
    return markdown_table(["start, then optimizer", "tokens", *map(str, layers)], cells)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    backbone = load(options)
    exits = read_exit_layers(options.exit_layers).place(int(backbone.lm.config.num_hidden_layers))
    data = read_data(Path(options.states), exits)
    states, test = data.train(), data.test.texts()
    short = ShortList.of(backbone.lm, states)
    fitted = ExitHeads.from_pretrained(
        Path(options.study) / "translators" / f"{len(states.token)}-0-0"
    )
    tokens = some_tokens(test, options.test_tokens)
    rows: list[dict[str, Any]] = []
    for method in methods(short, fitted):
        for steps in (0, options.steps):
            modules = train(method, states, short, steps, options.tokens)
            found = quality(method, modules, test, short, tokens)
            rows.append(
                {
                    "method": method.name,
                    "steps": steps,
                    "tokens": steps * options.tokens,
                    "exits": [one._asdict() for one in found],
                }
            )
            told = {"list": len(short.ids), "test_tokens": len(tokens), "rows": rows}
            write_text(Path(options.output_path), json.dumps(told, indent=1) + "\n")
    print(table(told))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def _falling(step: int, steps: int) -> float:
    return 1 - step / steps


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _parser() -> argparse.ArgumentParser:
    parser = study_parser("python -m benchmarks.real.recipes", "Ways to train an exit's logits.")
    add = parser.add_argument
    add("--study", required=True, help="output folder of benchmarks.real")
    add("--steps", type=int, default=250)
    add("--tokens", type=int, default=384, help="of a step")
    add("--test_tokens", type=int, default=1000)
    return parser


if __name__ == "__main__":
    run_command(main)
