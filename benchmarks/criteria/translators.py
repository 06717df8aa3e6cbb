"""Translators from stored states: least squares, then distillation.

Glossary: D width, V vocabulary, r rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.criteria.asking import Unembed
from benchmarks.criteria.fit import Recipe, set_rate, warm_cosine
from benchmarks.criteria.states import States
from dynamax_lm.heads import ExitHeads, HeadsConfig
from dynamax_lm.heads.train.losses import distillation

_PIECE = 4096


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
        set_rate(optimizer, recipe.translator_lr * warm_cosine(step, recipe.translator_steps))
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
