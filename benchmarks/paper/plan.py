"""The points of the experiment, their names and their folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dynamax_lm.common.errors import SettingError

CLASSIFIERS = ("linear", "ffn", "mamba")
BACKBONES = (
    "dynamax-mistral=mistralai/Mistral-7B-v0.3",
    "dynamax-mamba=mistralai/Mamba-Codestral-7B-v0.1",
)
TASKS = ("dynamax_truthfulqa_gen", "dynamax_coqa", "dynamax_triviaqa")
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
STATES = {
    "dynamax-mistral": ("propagate", "copy_kv", "recompute"),
    "dynamax-mamba": ("propagate", "freeze", "recompute"),
}
"""The skipped-state policies of each model."""


class Backbone(NamedTuple):
    """A model and its checkpoint."""

    model: str
    pretrained: str

    @property
    def name(self) -> str:
        """As folders are called."""
        checkpoint = re.sub(r"[^\w.-]+", "_", self.pretrained).strip("_")
        return f"{self.model}-{checkpoint}"


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        backbone: model and checkpoint.
        classifier: its heads' kind.
        skipped_state: the skipped-state policy.
        threshold: of the heads' confidence.
    """

    backbone: Backbone
    classifier: str
    skipped_state: str
    threshold: float

    def file(self, folder: Path) -> Path:
        """The folder of its results."""
        name = f"{self.classifier}_{self.skipped_state}_{self.threshold:g}.json"
        return folder / "points" / self.backbone.name / name

    def heads(self, folder: Path) -> Path:
        """The folder of its heads."""
        return folder / "heads" / self.backbone.name / self.classifier


def read_backbone(text: str) -> Backbone:
    """``dynamax-mamba=tiny`` and the like.

    Raises:
        SettingError: no such model, or no checkpoint.
    """
    model, equals, pretrained = text.partition("=")
    if model not in STATES or not equals or not pretrained:
        raise SettingError(
            f"--backbones {text}: give MODEL=CHECKPOINT, such as {BACKBONES[0]}; MODEL is one of "
            f"{', '.join(STATES)}"
        )
    return Backbone(model, pretrained)


def points(
    backbones: Sequence[Backbone],
    classifiers: Sequence[str],
    skipped_states: Sequence[str],
    thresholds: Sequence[float],
) -> Iterator[Point]:
    """All points, one backbone and one set of heads after the other.

    Args:
        backbones: models.
        classifiers: kinds of heads.
        skipped_states: each is run where the model has it.
        thresholds: each in [0, 1].

    Raises:
        SettingError: a value out of range, or a state that no chosen model has.
    """
    for threshold in thresholds:
        if not 0.0 <= threshold <= 1.0:
            raise SettingError(f"--thresholds {threshold}: give numbers in [0, 1]")
    for state in skipped_states:
        if not any(state in STATES[backbone.model] for backbone in backbones):
            raise SettingError(f"--skipped_states {state}: no chosen model has it")
    return (
        Point(backbone, classifier, state, threshold)
        for backbone in backbones
        for classifier in classifiers
        for state in skipped_states
        if state in STATES[backbone.model]
        for threshold in thresholds
    )
