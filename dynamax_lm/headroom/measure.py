"""The numbers of a headroom report: by layer, for an oracle policy, and for labels.

Averages are of per-document values, as in lm-eval's tables, with intervals over documents, of which
those about one passage are one unit; labels are counted by token, since a classifier is trained on
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dynamax_lm.common.intervals import SHARE, Bounds
from dynamax_lm.common.passages import Units
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.looks import FULL, Look, looking
from dynamax_lm.core.texts import Texts
from dynamax_lm.headroom.ceiling import Prices, Tokens, choose_exits
from dynamax_lm.headroom.documents import Document
from dynamax_lm.headroom.estimate import Estimate, estimate
from dynamax_lm.headroom.probe import PromptTry
from dynamax_lm.headroom.prompts import TriedPromptExit, prompt_numbers

KS = (1, 2, 3, 5, 10)
"""A label is positive where the exit's token is among full depth's k most likely; 1 is strict."""

VOCABULARY_CHECK = "top_prob"
FREE_CHECK = "oracle"
_MOST_EXITS = 4
POOL = "all tasks"


@dataclass(frozen=True)
class Ceiling:
    """The saving of an oracle policy.

    Attributes:
        exits: its exit layers.
        saved: net share of the answers' full-depth FLOPs.
        layers_used: its mean depth.
    """

    exits: tuple[int, ...]
    saved: Estimate
    layers_used: Estimate


@dataclass(frozen=True)
class LayerNumbers:
    """One candidate exit.

    Attributes:
        layer: layers run before it.
        agreement: share of a document's tokens that are full depth's.
        positive: for each k of ``KS``, the share of tokens whose label is positive.
    """

    layer: int
    agreement: Estimate
    positive: dict[int, float]


@dataclass(frozen=True)
class Headroom:
    """One task, or all of them pooled.

    Attributes:
        name: the task's, or ``POOL``.
        documents: their number.
        units: number of independent units: documents, or groups that share a passage.
        tokens: number of tokens of their texts.
        layers: one for each candidate exit.
        free: an oracle policy over all candidates with free checks: one projection a token.
        checked: an oracle policy that pays a vocabulary projection, or a cheap look, at every exit
            checked, with the exits that save most.
        default: the same with the default exits of a run.
        texts: numbers of generated, empty and distinct answers.
        prompts: prompts that exit, one for each way; empty unless asked for.
    """

    name: str
    documents: int
    units: int
    tokens: int
    layers: tuple[LayerNumbers, ...]
    free: Ceiling
    checked: Ceiling
    default: Ceiling
    texts: Texts = field(default_factory=Texts)
    prompts: tuple[TriedPromptExit, ...] = ()

    @property
    def counted(self) -> str:
        """The number of documents, and of units where it is smaller."""
        passages = f"{self.units} passage" + ("s" if self.units > 1 else "")
        return f"{self.documents}" + (f" in {passages}" if self.units < self.documents else "")


def measure(
    documents: Sequence[Document],
    costs: DecoderCosts,
    *,
    candidates: tuple[int, ...],
    default_exits: tuple[int, ...],
    skipped_state: str,
    look: Look = FULL,
    texts: Mapping[str, Texts] | None = None,
    prompt_exits: Sequence[PromptTry] = (),
) -> list[Headroom]:
    """Each task, and all tasks pooled where there are several, last.

    Args:
        documents: with ranks of every candidate.
        costs: the architecture.
        candidates: evaluated exit layers.
        default_exits: those of a run by default; only candidates are used.
        skipped_state: the skipped-state policy, which is billed.
        look: of the vocabulary checks, which is billed; the oracle policy errs by none.
        texts: of each task's generated answers; of ``POOL``, of all of them; none for scored ones.
        prompt_exits: ways in which the documents' prompts were tried to exit.
    """
    everything = _tokens(documents, candidates)
    check = looking(VOCABULARY_CHECK, look.name)
    best = choose_exits(everything, costs, check, skipped_state, _MOST_EXITS)
    usual = tuple(layer for layer in default_exits if layer in candidates)
    sets = {"free": candidates, "checked": best, "default": usual}
    tasks = list(dict.fromkeys(document.task for document in documents))
    groups = [(task, [one for one in documents if one.task == task]) for task in tasks]
    if len(groups) > 1:
        groups.append((POOL, list(documents)))
    found = []
    for name, some in groups:
        own, tokens = (texts or {}).get(name, Texts()), _tokens(some, candidates)
        units = Units.by_keys([document.shared for document in some])
        numbers = _headroom(name, own, tokens, units, costs, sets, check, skipped_state)
        found.append(replace(numbers, prompts=prompt_numbers(some, units, costs, prompt_exits)))
    return found


def _tokens(documents: Sequence[Document], candidates: tuple[int, ...]) -> Tokens:
    lengths = [len(document.positions) for document in documents]
    return Tokens(
        candidates,
        np.concatenate([document.ranks for document in documents]),
        np.concatenate([document.positions for document in documents]),
        np.repeat(np.arange(len(documents)), lengths),
    )


def _headroom(
    name: str,
    texts: Texts,
    tokens: Tokens,
    units: Units | None,
    costs: DecoderCosts,
    sets: dict[str, tuple[int, ...]],
    vocabulary_check: str,
    skipped_state: str,
) -> Headroom:
    agreement = tokens.means((tokens.ranks == 1).astype(np.float64))  # (documents, E)
    layers = tuple(
        LayerNumbers(layer, estimate(agreement[:, column], SHARE, units), _labels(tokens, column))
        for column, layer in enumerate(tokens.candidates)
    )
    ceilings: dict[str, Ceiling] = {}
    for which, exits in sets.items():
        check = FREE_CHECK if which == "free" else vocabulary_check
        depths = tokens.oracle_depths(exits, costs.n_layers)
        prices = Prices(costs, exits, check, skipped_state)
        saved = estimate(prices.saved(tokens, depths), prices.bounds, units)
        used = tokens.means(depths.astype(np.float64))
        depth = estimate(used, Bounds(1.0, costs.n_layers), units)
        ceilings[which] = Ceiling(exits, saved, depth)
    return Headroom(
        name=name,
        documents=len(agreement),
        units=len(agreement) if units is None else len(units.sizes),
        tokens=len(tokens.owners),
        texts=texts,
        layers=layers,
        free=ceilings["free"],
        checked=ceilings["checked"],
        default=ceilings["default"],
    )


def _labels(tokens: Tokens, column: int) -> dict[int, float]:
    ranks = tokens.ranks[:, column]
    return {k: float(((ranks >= 1) & (ranks <= k)).mean()) for k in KS}
