"""Cheap looks at the vocabulary: factors of the unembedding, and logits of single tokens.

With E (V, D) the unembedding and y (D,) an input of the projection, the factors A (V, R) and
B (R, D) are those of their rank with the least mean squared error of the logits ``A B y`` over
inputs of a given second moment C = mean(y y^T). With C = L L^T that is the best approximation of
``E L`` (Eckart and Young, 1936): ``A = E L Q`` and ``B = Q^T L^-1``, Q (D, R) the right singular
vectors of the largest singular values. They are eigenvectors of ``L^T (E^T E) L``, which is (D, D)
whatever the vocabulary: one pass over E and one decomposition serve every rank, and nothing is
drawn at random.

Until ``calibrate`` is called, C is that of independent elements of the final norm's scale.

Glossary: N tokens, D width, V vocabulary, R rank, M tokens of a list.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.decoders.cpu.products import Packed, is_plain

_ROWS_AT_ONCE = 1 << 13
"""Rows of the unembedding that are converted to a wider number format at a time."""

_FLOOR = 1e-5
"""Added to the variance of every direction, as a share of their mean: none is left out."""

_GATHERED_AT_ONCE = 1 << 25
"""Largest number of weights that are gathered for single tokens at a time."""


class Factors(NamedTuple):
    """The unembedding's factors of one rank.

    Attributes:
        left: (V, R).
        right: (R, D).
    """

    left: Tensor
    right: Tensor


class CheapProjection:
    """Looks at one vocabulary projection.

    Args:
        head: the projection.
        scale: (D,) of the final norm before it.

    Raises:
        ValueError: weights that are not those of a plain linear layer.
    """

    def __init__(self, head: Any, scale: Tensor) -> None:
        check_head(head)
        self._head = head
        self._bias: Tensor | None = head.bias
        self._moment = torch.diag(scale.double().square())
        self._gram: Tensor | None = None
        self._basis: _Basis | None = None
        self._factors: tuple[int, Factors] | None = None

    def calibrate(self, moment: Tensor) -> None:
        """Set C (D, D), the second moment of the inputs that the factors are made for."""
        self._moment, self._basis, self._factors = moment.double(), None, None

    @cached_property
    def _rows(self) -> Tensor:
        """(V, D) the weight by rows; where it is packed, a copy."""
        weight: Tensor = self._head.weight.detach()
        return weight

    def factors(self, rank: int) -> Factors:
        """The factors of a rank, 1..D; those of the last one are kept."""
        if self._factors is None or self._factors[0] != rank:
            weight: Tensor = self._head.weight.detach()  # rebuilt where it is packed
            if self._gram is None:
                self._gram = _gram(weight)
            if self._basis is None:
                self._basis = _Basis.of(self._gram, self._moment.to(weight.device))
            self._factors = rank, self._basis.factors(weight, rank)
        return self._factors[1]

    def low_rank(self, normed: Tensor, rank: int) -> Tensor:
        """(N, V) products of ``normed`` (N, D) with the factors of a rank."""
        left, right = self.factors(rank)
        return F.linear(F.linear(normed, right), left, self._bias)

    def of_tokens(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """(N, M) products of ``normed`` (N, D) with the rows of ``tokens`` (N, M)."""
        weight = self._rows
        tokens = tokens.to(weight.device)
        rows = max(1, _GATHERED_AT_ONCE // (tokens.shape[1] * normed.shape[1]))
        pairs = zip(normed.split(rows), tokens.split(rows), strict=True)
        parts = [(weight[some] @ inputs[:, :, None])[:, :, 0] for inputs, some in pairs]
        found = torch.cat(parts) if parts else normed.new_zeros(tokens.shape)
        return found if self._bias is None else found + self._bias[tokens]


def check_head(head: Any) -> None:
    """Refuse a projection whose products cannot be computed from its weight.

    Raises:
        ValueError: an adapted, quantised or hooked layer.
    """
    plain = isinstance(head, Packed) or (isinstance(head, nn.Module) and is_plain(head))
    if not plain or not head.weight.dtype.is_floating_point:
        raise ValueError(
            "the vocabulary projection is adapted, quantised, hooked or placed by accelerate, and "
            "is computed as a whole only"
        )


def scale_of(norm: Any, width: int) -> Tensor:
    """(D,) the factors by which ``norm`` multiplies a vector of unit size, element by element.

    Read from its outputs, as some norms multiply by one plus their weight: a vector of ones of
    alternating sign has unit size and, up to one element, no mean.
    """
    weight: Tensor = norm.weight
    signs = torch.ones(1, width, dtype=weight.dtype, device=weight.device)
    signs[:, 1::2] = -1.0
    with torch.no_grad():
        odd: Tensor = (norm(signs) - norm(-signs)) / 2  # without a bias
    return (odd * signs)[0].double()


class _Basis(NamedTuple):
    """The directions of factors, those with the largest share of the logits first.

    Attributes:
        root: (D, D) lower triangular, L.
        vectors: (D, D) orthogonal, Q.
    """

    root: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, gram: Tensor, moment: Tensor) -> _Basis:
        """From the Gram matrix and the second moment, (D, D) each."""
        floor = _FLOOR * moment.diagonal().mean() + torch.finfo(torch.float64).tiny
        root = torch.linalg.cholesky(moment + floor * torch.eye(len(moment)).to(moment))
        vectors: Tensor = torch.linalg.eigh(root.T @ gram @ root).eigenvectors
        return cls(root, vectors.flip(-1))

    def factors(self, weight: Tensor, rank: int) -> Factors:
        """Those of a rank, in the number format of ``weight`` (V, D)."""
        vectors = self.vectors[:, :rank]
        right = torch.linalg.solve_triangular(self.root.T, vectors, upper=True).T.contiguous()
        inner = (self.root @ vectors).float()
        left = [part.float() @ inner for part in weight.split(_ROWS_AT_ONCE)]
        return Factors(torch.cat(left).to(weight.dtype), right.to(weight.dtype))


def _gram(weight: Tensor) -> Tensor:
    """(D, D) float64, ``weight^T weight`` of a weight (V, D)."""
    width = weight.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
    for part in weight.split(_ROWS_AT_ONCE):
        wide = part.float()
        gram += (wide.T @ wide).double()
    return gram
