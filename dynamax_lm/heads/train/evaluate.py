"""Evaluation of trained heads on held-out text: predictions, labels and savings.

All tokens are evaluated from full-depth hidden states (teacher-forced); effects of skipped state
are measured by an lm-eval run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dynamax_lm.common.reliability import Bools, Floats, ranking, reliability
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.calibration import Platt, fit_platt, quality
from dynamax_lm.heads.train.hidden_state_cache import Observer
from dynamax_lm.heads.train.labels import agreement
from dynamax_lm.heads.train.windows import Batch

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_CHUNK = 1024


class HeldOut(NamedTuple):
    """Held-out tokens at every exit.

    Attributes:
        logits: (E, n) uncalibrated log-odds; zeros without a classifier.
        labelled: (E, n) whether the label holds.
        right: (E, n) whether the exit's token is full depth's.
        untranslated: (E, n) the same without translators.
        top_prob: (E, n) the largest probability at the exit, translated.
    """

    logits: Floats
    labelled: Bools
    right: Bools
    untranslated: Bools
    top_prob: Floats


class ExitReport(NamedTuple):
    """One exit of trained heads, on tokens not used for calibration."""

    layer: int
    agreement: float
    untranslated: float
    labelled: float
    log_loss_before: float
    log_loss: float
    calibration_error_before: float
    calibration_error: float
    ranking: float
    top_prob_ranking: float


class PolicyReport(NamedTuple):
    """Depth and agreement at a threshold, with exact states of earlier tokens."""

    threshold: float
    layers_used: float
    agreement: float
    top_prob_layers_used: float
    top_prob_agreement: float


@torch.no_grad()
def hold_out(
    heads: ExitHeads,
    backbone: Backbone,
    observe: Observer,
    batches: Iterable[Batch],
    *,
    top_k: int,
    tokens: int,
    doing: str = "",
) -> HeldOut:
    """Evaluate ``heads`` on held-out batches, until at least ``tokens`` tokens.

    ``doing`` names a progress bar; without it there is none.

    Raises:
        ValueError: no batch at all.
    """
    layers = heads.config.exit_layers
    found: list[tuple[NDArray[np.float64], ...]] = []
    some = _first(batches, tokens)
    total = sum(one.checked_tokens for one in some)
    bar = tqdm(total=total, desc=doing, unit="token", disable=not doing)
    for batch in some:
        seen = observe(batch)
        hidden = dict(zip(layers, seen.hidden, strict=True))
        scores = (
            heads.training_logits(hidden, dict.fromkeys(layers, seen.real))
            if heads.config.has_classifier
            else {layer: torch.zeros_like(seen.real, dtype=torch.float32) for layer in layers}
        )
        rows: list[list[torch.Tensor]] = []
        for layer in layers:
            state = hidden[layer][seen.real]
            pieces = [
                _exit(heads, backbone, layer, part, full, top_k)
                for part, full in zip(
                    state.split(_CHUNK), seen.full_logits.split(_CHUNK), strict=True
                )
            ]
            parts = [torch.cat(same) for same in zip(*pieces, strict=True)]
            rows.append([scores[layer][seen.real], *parts])
        arrays = (torch.stack(same).double().cpu().numpy() for same in zip(*rows, strict=True))
        found.append(tuple(arrays))
        bar.update(batch.checked_tokens)
    bar.close()
    if not found:
        raise ValueError("no held-out batch")
    logits, labelled, right, plain, top = (
        np.concatenate(same, axis=1) for same in zip(*found, strict=True)
    )
    return HeldOut(logits, labelled > 0, right > 0, plain > 0, top)


def _first(batches: Iterable[Batch], tokens: int) -> list[Batch]:
    """The first batches with at least ``tokens`` checked tokens together, or all."""
    some: list[Batch] = []
    count = 0
    for batch in batches:
        some.append(batch)
        count += batch.checked_tokens
        if count >= tokens:
            break
    return some


def _exit(
    heads: ExitHeads,
    backbone: Backbone,
    layer: int,
    hidden: torch.Tensor,
    full_logits: torch.Tensor,
    top_k: int,
) -> tuple[torch.Tensor, ...]:
    logits = backbone.stack.unembed(heads.translate(layer, hidden))
    plain = backbone.stack.unembed(hidden)
    return (
        agreement(logits, full_logits, top_k),
        agreement(logits, full_logits),
        agreement(plain, full_logits),
        logits.softmax(-1).amax(-1),
    )


def calibrate(held: HeldOut) -> list[Platt]:
    """Scale and bias of every exit."""
    return [fit_platt(z, y) for z, y in zip(held.logits, held.labelled, strict=True)]


def report_exits(layers: Sequence[int], held: HeldOut, platts: Sequence[Platt]) -> list[ExitReport]:
    """Each exit separately."""
    reports = []
    for number, (layer, platt) in enumerate(zip(layers, platts, strict=True)):
        logits, labelled = held.logits[number], held.labelled[number]
        before, after = quality(logits, labelled), quality(logits, labelled, platt)
        reports.append(
            ExitReport(
                layer,
                float(held.right[number].mean()),
                float(held.untranslated[number].mean()),
                after.right,
                before.log_loss,
                after.log_loss,
                before.calibration_error,
                after.calibration_error,
                after.ranking,
                ranking(held.top_prob[number].clip(1e-9, 1 - 1e-9), labelled),
            )
        )
    return reports


def report_policies(
    layers: Sequence[int], n_layers: int, held: HeldOut, platts: Sequence[Platt]
) -> list[PolicyReport]:
    """Every threshold of :data:`THRESHOLDS`, and top probability at the same exits."""
    confidence = np.stack([platt(z) for platt, z in zip(platts, held.logits, strict=True)])
    reports = []
    for threshold in THRESHOLDS:
        ours = _leave(layers, n_layers, confidence >= threshold, held.right)
        theirs = _leave(layers, n_layers, held.top_prob >= threshold, held.right)
        reports.append(PolicyReport(threshold, *ours, *theirs))
    return reports


def _leave(
    layers: Sequence[int], n_layers: int, leaves: Bools, right: Bools
) -> tuple[float, float]:
    """Mean layers used and agreement, exiting at the first exit where ``leaves`` (E, n) holds."""
    first = np.where(leaves.any(0), leaves.argmax(0), len(layers))
    depth = np.array([*layers, n_layers])[first]
    agrees = np.concatenate([right, np.ones((1, right.shape[1]), dtype=bool)])
    return float(depth.mean()), float(agrees[first, np.arange(right.shape[1])].mean())


def reliability_rows(
    layers: Sequence[int], held: HeldOut, platts: Sequence[Platt]
) -> list[dict[str, float | int]]:
    """The reliability table of every exit, as plain rows for the configuration."""
    rows: list[dict[str, float | int]] = []
    for number, (layer, platt) in enumerate(zip(layers, platts, strict=True)):
        table = reliability(platt(held.logits[number]), held.labelled[number])
        rows += [{"layer": layer, **one._asdict()} for one in table]
    return rows
