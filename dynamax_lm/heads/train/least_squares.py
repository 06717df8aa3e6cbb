"""Affine maps of hidden states by least squares, from sums over tokens.

A map is of the difference from the input: target = hidden + weight @ hidden + bias. Tokens weigh by
the inverse of their target's squared size, since a norm follows. The ridge is relative to each
dimension's own second moment, so that it does not depend on the scale of hidden states.

Glossary: n tokens, D width, G targets, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_SMALLEST = 1e-12


class AffineFit(NamedTuple):
    """A full map.

    Attributes:
        weight: (D, D).
        bias: (D,).
    """

    weight: Tensor
    bias: Tensor


class LowRankFit(NamedTuple):
    """A map through r numbers.

    Attributes:
        down: (r, D).
        up: (D, r).
        bias: (D,).
    """

    down: Tensor
    up: Tensor
    bias: Tensor


class Moments:
    """Sums over tokens that determine the maps to several targets.

    Args:
        width: D.
        targets: G.

    Attributes:
        tokens: number of tokens added.
    """

    def __init__(self, width: int, targets: int) -> None:
        self.tokens = 0
        self._gram = torch.zeros(targets, width + 1, width + 1, dtype=torch.float64)
        self._moment = torch.zeros(targets, width + 1, width, dtype=torch.float64)

    def add(self, hidden: Tensor, targets: Sequence[Tensor]) -> None:
        """Add tokens.

        Args:
            hidden: (n, D) inputs.
            targets: (n, D) of each of G targets.
        """
        inputs = hidden.double().cpu()
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        for number, target in enumerate(targets):
            wanted = target.double().cpu()
            weighted = inputs / wanted.square().sum(1, keepdim=True).clamp(min=_SMALLEST)
            self._gram[number] += weighted.T @ inputs
            self._moment[number] += weighted.T @ (wanted - inputs[:, :-1])
        self.tokens += len(hidden)

    def affine(self, number: int, ridge: float) -> AffineFit:
        """The full map to a target.

        Args:
            number: of the target, from 0.
            ridge: share of each dimension's second moment, above 0.
        """
        solution = self._solved(number, ridge)
        return AffineFit(solution[:-1].T.contiguous().float(), solution[-1].float())

    def low_rank(self, number: int, ridge: float, rank: int) -> LowRankFit:
        """The reduced-rank regression: the full map's main directions, by what it predicts.

        Args:
            number: of the target, from 0.
            ridge: see :meth:`affine`.
            rank: r, 1..D.
        """
        solution, gram = self._solved(number, ridge), self._gram[number]
        weight, bias = solution[:-1].T, solution[-1]
        mean = gram[-1, :-1] / gram[-1, -1]
        covariance = gram[:-1, :-1] / gram[-1, -1] - torch.outer(mean, mean)
        up = torch.linalg.eigh(weight @ covariance @ weight.T).eigenvectors[:, -rank:]
        down = up.T @ weight
        bias = bias + (weight - up @ down) @ mean
        return LowRankFit(down.contiguous().float(), up.contiguous().float(), bias.float())

    def _solved(self, number: int, ridge: float) -> Tensor:
        """(D + 1, D) weights of the inputs, the bias last."""
        gram = self._gram[number].clone()
        diagonal = gram.diagonal()[:-1]
        diagonal += ridge * diagonal.clamp(min=_SMALLEST)
        solution: Tensor = torch.linalg.solve(gram, self._moment[number])
        return solution
