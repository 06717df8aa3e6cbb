"""``python -m benchmarks.real.reading``: what a classifier could read besides the hidden state.

    python -m benchmarks.real.reading --model_args pretrained=SmolLM2 --states runs/real/states \
        --exit_layers 16+20+24+28 --study runs/real/study --heads linear-full-0 \
        --output_path benchmarks/real/results/reading.json

A logistic regression an exit reads the log-odds of a trained classifier and some of: the position
in the answer, the cosine with the hidden state of the exit before, and the margin of the two
largest logits at the exit before. The margin is that of the exact logits and billed as a cheap
look's, so that it is at least as informative as one. All regressions have the same training tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.criteria.asking import Exits, Fixed, Trained, Unembed, read_exits
from benchmarks.criteria.choice import DRAWS, Weights, folds
from benchmarks.criteria.states import States
from benchmarks.criteria.study import Extended, compare, thresholds
from benchmarks.criteria.told import plain
from benchmarks.real.__main__ import study_parser
from benchmarks.real.run import load, read_data
from dynamax_lm.common.outputs import write_text
from dynamax_lm.core.looks import Look, read_look
from dynamax_lm.harness.command_line import run_command
from dynamax_lm.heads import ExitHeads
from dynamax_lm.settings.exits import read_exit_layers

READINGS = ("position", "cosine", "margin")
_ODDS = ""
_TOKENS_AT_ONCE = 512
_SURE = 1e-6

Floats = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser().parse_args(argv)
    backbone = load(options)
    exits = read_exit_layers(options.exit_layers).place(int(backbone.lm.config.num_hidden_layers))
    data = read_data(Path(options.states), exits)
    test = data.test.of(np.flatnonzero(data.test.text > 0).tolist())
    train = some_documents(data.train(), options.tokens)
    study = Path(options.study)
    heads = ExitHeads.from_pretrained(study / "heads" / options.heads).eval()
    costs = backbone.stack.costs
    look = read_look(options.look)
    theirs = read_exits(train, backbone.stack.unembed, heads, ())
    ours = read_exits(test, backbone.stack.unembed, heads, ())
    fitted = read(train, heads, backbone.stack.unembed), read(test, heads, backbone.stack.unembed)
    weight = backbone.lm.model.get_output_embeddings().weight
    flops = reading_flops(heads, look, exits, *weight.shape)
    extended = {
        " + ".join((options.heads, *some)): Extended(
            Fixed(confidences(*fitted, theirs, some)),
            heads,
            tuple(sum(flops[name][number] for name in some) for number in range(len(exits))),
        )
        for size in range(len(READINGS) + 1)
        for some in combinations(READINGS, size)
    }
    grid = thresholds(options.grid_step)
    column = compare("affine", test, ours, heads, {}, costs, "propagate", grid, extended)
    weights = Weights.draw(folds(test.tasks, 0), DRAWS, 0)
    found = {
        "tokens": len(train.token),
        "look": look.name,
        "lines": [plain(line) for line in column.lines(test.layers, weights)],
        "pairs": [plain(pair) for pair in column.pairs(list(extended), weights)],
    }
    write_text(Path(options.output_path), json.dumps(found, indent=1) + "\n")


def some_documents(states: States, tokens: int) -> States:
    """Whole documents in random order, until there are ``tokens``."""
    order = np.random.default_rng(0).permutation(len(states.tasks))
    lengths = np.bincount(states.document, minlength=len(states.tasks))
    count = int(np.searchsorted(lengths[order].cumsum(), tokens)) + 1
    return states.of(sorted(order[:count].tolist()))


def read(states: States, heads: ExitHeads, unembed: Unembed) -> dict[str, Floats]:
    """(E, N) of each: the classifier's log-odds and every reading, 0 where there is none."""
    shape = len(states.exits), len(states.token)
    sure = Trained(heads, states).everywhere().astype(np.float64).clip(_SURE, 1 - _SURE)
    begins = np.searchsorted(states.document, states.document)
    position = np.log1p(np.arange(shape[1]) - begins)
    found = {
        _ODDS: np.log(sure / (1 - sure)),
        "position": np.tile(position, (shape[0], 1)),
        "cosine": np.zeros(shape),
        "margin": np.zeros(shape),
    }
    for number in range(1, shape[0]):
        for part, cosine, margin in _of_exit(states, number, heads, unembed):
            found["cosine"][number, part] = cosine
            found["margin"][number, part] = margin
    return found


@torch.inference_mode()
def _of_exit(
    states: States, number: int, heads: ExitHeads, unembed: Unembed
) -> Iterator[tuple[slice, Floats, Floats]]:
    """Cosine with the exit before, and its margin, of some tokens at a time."""
    before = states.exits[number - 1]
    for start in range(0, len(states.token), _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        last, now = states.at(number - 1, part), states.at(number, part)
        two = unembed(heads.translate(before, last)).topk(2, dim=-1).values
        cosine = torch.nn.functional.cosine_similarity(last, now, dim=-1)
        yield part, cosine.double().numpy(), (two[:, 0] - two[:, 1]).double().numpy()


def confidences(
    train: Mapping[str, Floats], test: Mapping[str, Floats], labels: Exits, some: Sequence[str]
) -> NDArray[np.float32]:
    """(E, N) probabilities at the test tokens that an exit is right.

    Args:
        train: of :func:`read`.
        test: the same of the test tokens.
        labels: of the training tokens.
        some: which readings are used, with the classifier's log-odds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = []
    for number, right in enumerate(labels.right):
        ours, theirs = (
            np.stack([of[name][number] for name in (_ODDS, *some)], axis=1) for of in (train, test)
        )
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ours, right)
        rows.append(model.predict_proba(theirs)[:, 1])
    return np.array(rows, dtype=np.float32)


def reading_flops(
    heads: ExitHeads, look: Look, exits: Sequence[int], vocabulary: int, width: int
) -> dict[str, list[int]]:
    """FLOPs of each reading at each exit: the look is made there, for the exit that follows.

    Args:
        heads: with the translators that precede a look.
        look: a cheap one.
        exits: layers.
        vocabulary: V.
        width: D.
    """
    last = len(exits) - 1
    return {
        "position": [0] * len(exits),
        "cosine": [6 * width if number else 0 for number in range(len(exits))],
        "margin": [
            look.flops(number, width, vocabulary) + heads.translator_flops(layer)
            if number < last
            else 0
            for number, layer in enumerate(exits)
        ],
    }


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = study_parser(
        "python -m benchmarks.real.reading",
        "What a trained classifier could read besides the hidden state.",
    )
    add = made.add_argument
    add("--study", required=True, help="folder of benchmarks.real")
    add("--heads", default="linear-full-0", help="of the study")
    add("--look", default="rank:32+shortlist:256", help="that the margin is billed as")
    add("--tokens", type=int, default=20_000, help="that the regressions are fitted on")
    return made


if __name__ == "__main__":
    run_command(main)
