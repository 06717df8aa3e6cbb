"""One classifier from stored states, calibrated on held-out documents.

Losses, thinning and calibration are those of ``dynamax_lm.heads.train``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from benchmarks.criteria.asking import Exits
from benchmarks.criteria.fit import Recipe, set_rate, warm_cosine
from benchmarks.criteria.states import States
from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.train.calibration import fit_platt
from dynamax_lm.heads.train.losses import CLASSIFIER_LOSSES
from dynamax_lm.heads.train.objective import reached

_HELD_OUT = 0.15


class _Batch(NamedTuple):
    """A batch of documents, padded on the right."""

    hidden: dict[int, Tensor]
    real: Tensor
    right: list[Tensor]


def fit_classifier(
    config: HeadsConfig,
    translators: ExitHeads | None,
    states: States,
    exits: Exits,
    recipe: Recipe,
) -> ExitHeads:
    """Train one classifier on whether exits are right, and calibrate it on held-out documents.

    Args:
        config: with a classifier.
        translators: whose exits were labelled; they are copied in, and stay as they are.
        states: of training documents.
        exits: of the same tokens.
        recipe: steps, rate and loss.
    """
    torch.manual_seed(recipe.seed)
    if translators is None:
        config = replace(config, translator="identity")
    heads = ExitHeads(config)
    if translators is not None:
        heads.translators.load_state_dict(translators.translators.state_dict())
    heads.translators.requires_grad_(False)
    learning = [one for one in heads.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    edges = np.searchsorted(states.document, np.arange(len(states.tasks) + 1))
    order = np.random.default_rng(recipe.seed).permutation(len(states.tasks))
    held = order[: int(_HELD_OUT * len(order))]
    loss_of = CLASSIFIER_LOSSES[recipe.loss]
    batches = _endless(order[len(held) :], np.diff(edges), recipe)
    bar = tqdm(range(recipe.steps), desc=f"{config.classifier} {config.classifier_width}")
    for step in bar:
        set_rate(optimizer, recipe.lr * warm_cosine(step, recipe.steps))
        batch = _batch(states, exits.right, edges, next(batches))
        masks = reached(batch.real, batch.right, recipe.seed * 100_003 + step)
        logits = heads.training_logits(batch.hidden, dict(zip(states.exits, masks, strict=True)))
        losses = [
            loss_of(logits[layer][mask], right[mask])
            for layer, mask, right in zip(states.exits, masks, batch.right, strict=True)
            if mask.any()
        ]
        loss = torch.stack(losses).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{float(loss.detach()):.4f}")
    return _calibrated(heads.eval(), states, exits, edges, held)


@torch.no_grad()
def _calibrated(
    heads: ExitHeads, states: States, exits: Exits, edges: NDArray[np.int64], held: NDArray[Any]
) -> ExitHeads:
    found: list[list[Tensor]] = [[] for _ in states.exits]
    labels: list[list[Tensor]] = [[] for _ in states.exits]
    for start in range(0, len(held), 128):
        batch = _batch(states, exits.right, edges, held[start : start + 128])
        logits = heads.training_logits(batch.hidden, dict.fromkeys(states.exits, batch.real))
        for number, layer in enumerate(states.exits):
            found[number].append(logits[layer][batch.real])
            labels[number].append(batch.right[number][batch.real])
    calibration = {}
    for layer, some, right in zip(states.exits, found, labels, strict=True):
        platt = fit_platt(torch.cat(some).double().numpy(), torch.cat(right).numpy())
        # the configuration refuses a scale of 0, the limit of an uninformative classifier
        calibration[str(layer)] = {"scale": max(platt.scale, 1e-6), "bias": platt.bias}
    heads.amend(calibration=calibration)
    return heads


def _batch(
    states: States, right: NDArray[np.bool_], edges: NDArray[np.int64], documents: NDArray[Any]
) -> _Batch:
    parts = [slice(int(edges[number]), int(edges[number + 1])) for number in documents]
    real = pad_sequence(
        [torch.ones(part.stop - part.start, dtype=torch.bool) for part in parts], batch_first=True
    )
    hidden = {
        layer: pad_sequence([states.at(number, part) for part in parts], batch_first=True)
        for number, layer in enumerate(states.exits)
    }
    labels = [
        pad_sequence([torch.from_numpy(row[part]) for part in parts], batch_first=True)
        for row in right
    ]
    return _Batch(hidden, real, labels)


def _endless(
    documents: NDArray[Any], lengths: NDArray[np.int64], recipe: Recipe
) -> Iterator[NDArray[Any]]:
    """Batches in random order, of documents of similar length, so that few pads are run."""
    generator = np.random.default_rng(recipe.seed + 1)
    while True:
        order = generator.permutation(documents)
        order = order[np.argsort(lengths[order], kind="stable")]
        starts = generator.permutation(range(0, len(order), recipe.documents))
        for start in starts:
            yield order[start : start + recipe.documents]
