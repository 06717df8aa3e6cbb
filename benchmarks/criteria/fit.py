"""Translators and classifiers from stored states: all kinds from the same tokens, steps and loss.

``dynamax_lm.heads.train`` runs the backbone for every batch; here one collection serves all kinds,
and labels are made once. Losses, thinning and calibration are that package's.

Glossary: E exits, N tokens, D width, B documents of a batch, T tokens of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from benchmarks.criteria.asking import Exits, Unembed
from benchmarks.criteria.kinds import Kind
from benchmarks.criteria.states import States
from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.train.calibration import fit_platt
from dynamax_lm.heads.train.losses import CLASSIFIER_LOSSES, distillation
from dynamax_lm.heads.train.objective import reached

_PIECE = 4096
_HELD_OUT = 0.15


@dataclass(frozen=True)
class Recipe:
    """How everything is trained, the same for every kind.

    Attributes:
        steps: of each classifier.
        documents: of a classifier's batch.
        lr: highest rate of the classifiers.
        loss: a name in ``CLASSIFIER_LOSSES``.
        translator_steps: of distillation, after the least-squares start.
        translator_tokens: of a step of distillation.
        translator_lr: highest rate of distillation.
        seed: of everything random.
    """

    steps: int = 100
    documents: int = 256
    lr: float = 4e-3
    loss: str = "balanced"
    translator_steps: int = 200
    translator_tokens: int = 512
    translator_lr: float = 5e-4
    seed: int = 0


def heads_config(
    lm: Any, name: str, exits: tuple[int, ...], kind: Kind | None, rank: int = 0
) -> HeadsConfig:
    """The configuration of heads with translators, and a classifier unless ``None``.

    Args:
        lm: a loaded ``dynamax-…`` model.
        name: of the backbone.
        exits: layers run before each.
        kind: of the classifier.
        rank: of the translators; 0 for affine ones.
    """
    config = lm.config
    full = int(config.hidden_size)
    narrow = min(full, max(32, full // 16 // 16 * 16))
    width = full if kind is None or kind.width == "full" else narrow
    return HeadsConfig(
        backbone=name,
        architecture=type(lm).ARCHITECTURE.name,
        n_layers=lm.stack.n_layers,
        width=full,
        vocabulary=int(config.vocab_size),
        fingerprint=fingerprint(lm.model.get_output_embeddings().weight),
        exit_layers=exits,
        classifier="none" if kind is None else kind.classifier,
        classifier_width=width,
        ffn_width=4 * width if kind is not None and kind.classifier == "ffn" else 0,
        translator="low_rank" if rank else "affine",
        translator_rank=rank,
    )


# -- translators ----------------------------------------------------------------------------------


def fit_translators(
    config: HeadsConfig,
    states: States,
    unembed: Unembed,
    recipe: Recipe,
    metric: Tensor | None = None,
) -> ExitHeads:
    """Translators: least squares to the last layer's state, then distillation.

    The least-squares start (arXiv 2303.09435) costs one pass over the states; distillation (the
    tuned lens, arXiv 2303.08112) starts from its result. Low-rank ones start from the reduced-rank
    regression, whose error is least in the logits.

    Args:
        config: with affine or low-rank translators.
        states: of training documents.
        unembed: of the backbone, or over some of its vocabulary.
        recipe: steps and rates.
        metric: (D, D) of :func:`logit_metric`, for low-rank ones.
    """
    torch.manual_seed(recipe.seed)
    heads = ExitHeads(config)
    for number, layer in enumerate(states.exits):
        fit = _least_squares(states, number)
        translator: Any = heads.translators[str(layer)]
        with torch.no_grad():
            if config.translator == "affine":
                translator.weight.copy_(fit.weight)
                translator.bias.copy_(fit.bias)
            else:
                assert metric is not None, "a reduced rank needs the metric of its errors"
                up, down = _reduced(fit, metric, config.translator_rank)
                translator.up.weight.copy_(up)
                translator.down.weight.copy_(down)
                translator.up.bias.copy_(fit.bias + (fit.weight - up @ down) @ fit.mean)
    if recipe.translator_steps:
        _distil(heads, states, unembed, recipe)
    return heads.eval()


class _Fit(NamedTuple):
    """A linear map of an exit's state, and the states that it was fitted on.

    Attributes:
        weight: (D, D).
        bias: (D,).
        mean: (D,) of the states, by the tokens' weights.
        covariance: (D, D) of the states.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    covariance: Tensor


def _least_squares(states: States, number: int) -> _Fit:
    """The least-squares map from the exit's state to its difference from the last layer's.

    Tokens weigh by the inverse of their last state's size, since a norm follows.
    """
    width = states.hidden[0].shape[1]
    gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    moment = torch.zeros(width + 1, width, dtype=torch.float64)
    for start in range(0, len(states.token), _PIECE):
        part = slice(start, start + _PIECE)
        hidden, last = states.at(number, part), states.at(len(states.exits), part)
        scale = last.norm(dim=1, keepdim=True).clamp(min=1e-6)
        inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1) / scale
        wanted = (last - hidden) / scale
        gram += (inputs.T @ inputs).double()
        moment += (inputs.T @ wanted).double()
    total, mean = gram[-1, -1].clone(), gram[-1, :-1] / gram[-1, -1]
    covariance = gram[:-1, :-1] / total - torch.outer(mean, mean)
    ridge = 1e-3 * gram.diagonal()[:-1].mean()
    gram[range(width), range(width)] += ridge
    solution = torch.linalg.solve(gram, moment).float()
    return _Fit(solution[:-1].T.contiguous(), solution[-1], mean.float(), covariance.float())


def logit_metric(norm: Tensor, unembedding: Tensor) -> Tensor:
    """(D, D) M such that ``x @ M @ x`` is how much logits spread where a normed state moves by x.

    Args:
        norm: (D,) weights of the final norm.
        unembedding: (V, D).
    """
    centred = (unembedding - unembedding.mean(0)).float() * norm.float()
    metric: Tensor = centred.T @ centred / len(centred)
    return metric


def _reduced(fit: _Fit, metric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(D, r) and (r, D) whose product is nearest to the fit's map, in the logits of its states."""
    values, vectors = torch.linalg.eigh(metric.double())
    values = values.clamp(min=1e-9 * values.max())
    root = vectors * values.sqrt() @ vectors.T
    inverse = vectors * values.rsqrt() @ vectors.T
    weight = fit.weight.double()
    spread = root @ weight @ fit.covariance.double() @ weight.T @ root
    main = torch.linalg.eigh(spread).eigenvectors[:, -rank:]
    up, down = inverse @ main, main.T @ root @ weight
    even = (down.norm(dim=1) / up.norm(dim=0)).clamp(min=1e-9).sqrt()  # steps alike for both
    return (up * even).float(), (down / even[:, None]).float()


def _distil(heads: ExitHeads, states: States, unembed: Unembed, recipe: Recipe) -> None:
    generator = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(heads.translators.parameters(), lr=0.0, weight_decay=0.0)
    bar = tqdm(range(recipe.translator_steps), desc="translators")
    for step in bar:
        _set_rate(optimizer, recipe.translator_lr, step, recipe.translator_steps)
        some = np.sort(
            generator.choice(
                len(states.token), min(recipe.translator_tokens, len(states.token)), replace=False
            )
        )
        with torch.no_grad():
            full = unembed(states.at(len(states.exits), some))
        total = 0.0
        for number, layer in enumerate(states.exits):
            logits = unembed(heads.translate(layer, states.at(number, some)))
            loss = distillation(logits, full).mean()
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(heads.translators.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(divergence=f"{total / len(states.exits):.4f}")


# -- classifiers ----------------------------------------------------------------------------------


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
        _set_rate(optimizer, recipe.lr, step, recipe.steps)
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


def _set_rate(optimizer: torch.optim.Optimizer, most: float, step: int, steps: int) -> None:
    """A short linear warm-up, then a cosine to 0."""
    warm = max(1, steps // 20)
    scale = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = most * scale


def load_or_fit(folder: Path, fit: Any) -> ExitHeads:
    """Heads from ``folder`` where they are finished, else ``fit()``, saved there."""
    if (folder / "config.json").is_file():
        return ExitHeads.from_pretrained(folder)
    heads: ExitHeads = fit()
    heads.save_pretrained(folder, card="Made by `python -m benchmarks.criteria`.\n")
    return heads
