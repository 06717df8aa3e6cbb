"""What prompts that exit would save of all FLOPs, and on how many tokens answers would agree.

The answers are full depth's own, read again at full depth after a prompt whose tokens but the last
exited at a layer (``prompt_exit``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamax_lm.common.intervals import SHARE, Bounds
from dynamax_lm.common.passages import Units
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.trace import FlopsBreakdown
from dynamax_lm.headroom.documents import Document
from dynamax_lm.headroom.estimate import Estimate, estimate
from dynamax_lm.headroom.probe import PromptTry

_WIDEST = Bounds(-1.0, 1.0)
"""A prompt that exits never costs twice what it costs at full depth."""


@dataclass(frozen=True)
class TriedPromptExit:
    """One way in which prompts exit.

    Attributes:
        layer: layers that prompt tokens run.
        agreement: share of a document's tokens at which full depth's token stays the most likely.
        saved: net share of all FLOPs, prompts and maps included, with answers at full depth.
        maps: name of the maps of the layers above; ``None`` for none.
    """

    layer: int
    agreement: Estimate
    saved: Estimate
    maps: str | None = None


def prompt_numbers(
    documents: Sequence[Document],
    units: Units | None,
    costs: DecoderCosts,
    tries: Sequence[PromptTry],
) -> tuple[TriedPromptExit, ...]:
    """One for each of ``tries``, in the order of the documents' ``prompts``."""
    found = []
    for column, one in enumerate(tries):
        agreement = np.array([document.prompts[:, column].mean() for document in documents])
        layer, maps = one.exit
        flops = 0 if maps is None else maps.flops
        ledger = Ledger(costs, prompt_exit=layer, prompt_maps=flops)
        saved = np.array([_saved(ledger, document, costs.n_layers) for document in documents])
        estimates = estimate(agreement, SHARE, units), estimate(saved, _WIDEST, units)
        found.append(TriedPromptExit(layer, *estimates, one.name))
    return tuple(found)


def _saved(ledger: Ledger, document: Document, n_layers: int) -> float:
    bills = [ledger.answer(prompt, [n_layers] * tokens) for prompt, tokens in document.requests]
    return sum(bills, FlopsBreakdown()).flops_saved_total
