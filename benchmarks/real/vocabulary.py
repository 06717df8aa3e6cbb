"""A short list of the vocabulary, for training without the whole projection.

Training passes compare exits with full depth among the tokens that full depth emits
in the training text at all, a sixth of the vocabulary or less, and so cost a sixth. Everything that
is reported is projected to the whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.criteria.states import States


@dataclass(frozen=True)
class ShortList:
    """Some tokens of the vocabulary.

    Attributes:
        ids: (S,) ascending.
        weight: (S, D) their rows of the unembedding.
        norm: the final norm.
    """

    ids: NDArray[np.int64]
    weight: Tensor
    norm: Any

    @classmethod
    def of(cls, lm: Any, states: States) -> ShortList:
        """The tokens that full depth emits in ``states``."""
        ids = np.unique(states.token)
        stack = type(lm).STACK(lm.model)
        weight = lm.model.get_output_embeddings().weight.detach()
        return cls(ids, weight[torch.from_numpy(ids)].float().contiguous(), stack.normed)

    def unembed(self, hidden: Tensor) -> Tensor:
        """(n, D) to (n, S) logits."""
        logits: Tensor = torch.nn.functional.linear(self.norm(hidden).float(), self.weight)
        return logits

    def numbered(self, states: States) -> States:
        """The same states, whose tokens are places in the list."""
        return replace(states, token=np.searchsorted(self.ids, states.token))
