"""What prompts that exit would save of all FLOPs, and on how many tokens answers would agree.

The answers are full depth's own, read again at full depth after a prompt whose tokens but the last
exited at a layer (``prompt_exit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamax_lm.common.intervals import SHARE, Bounds
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.trace import FlopsBreakdown
from dynamax_lm.headroom.documents import Document
from dynamax_lm.headroom.estimate import Estimate, estimate

_WIDEST = Bounds(-1.0, 1.0)
"""A prompt that exits never costs twice what it costs at full depth."""


@dataclass(frozen=True)
class PromptExit:
    """One layer at which prompts exit.

    Attributes:
        layer: layers that prompt tokens run.
        agreement: share of a document's tokens at which full depth's token stays the most likely.
        saved: net share of all FLOPs, prompts included, with answers at full depth.
    """

    layer: int
    agreement: Estimate
    saved: Estimate


def prompt_numbers(
    documents: Sequence[Document], costs: DecoderCosts, layers: Sequence[int]
) -> tuple[PromptExit, ...]:
    """One for each of ``layers``, in the order of the documents' ``prompts``."""
    found = []
    for column, layer in enumerate(layers):
        agreement = np.array([one.prompts[:, column].mean() for one in documents])
        ledger = Ledger(costs, prompt_exit=layer)
        saved = np.array([_saved(ledger, one, costs.n_layers) for one in documents])
        found.append(PromptExit(layer, estimate(agreement, SHARE), estimate(saved, _WIDEST)))
    return tuple(found)


def _saved(ledger: Ledger, document: Document, n_layers: int) -> float:
    bills = [ledger.answer(prompt, [n_layers] * tokens) for prompt, tokens in document.requests]
    return sum(bills, FlopsBreakdown()).flops_saved_total
