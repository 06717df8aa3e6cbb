"""The points of the experiment, their names and their folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from dynamax_lm.common.errors import SettingError

CLASSIFIERS = ("linear", "ffn", "mamba")
BACKBONES = (
    "dynamax-mistral=mistralai/Mistral-7B-v0.3",
    "dynamax-mamba=mistralai/Mamba-Codestral-7B-v0.1",
)
TASKS = ("dynamax_truthfulqa_gen", "dynamax_coqa", "dynamax_triviaqa")
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999, 0.9999)
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

    def heads(self, folder: Path, classifier: str) -> Path:
        """The folder of heads that are trained here."""
        return folder / "heads" / self.name / classifier


class Rule(NamedTuple):
    """One evaluation with exits.

    Attributes:
        classifier: the heads' kind.
        skipped_state: the skipped-state policy.
        threshold: of the heads' confidence.
    """

    classifier: str
    skipped_state: str
    threshold: float


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


def read_heads(given: Sequence[str]) -> dict[str, Path]:
    """Folders of trained heads by classifier, from ``ffn=FOLDER`` and the like.

    Raises:
        SettingError: no such classifier, or no heads in the folder.
    """
    found: dict[str, Path] = {}
    for text in given:
        classifier, equals, folder = text.partition("=")
        if classifier not in CLASSIFIERS or not equals:
            kinds = ", ".join(CLASSIFIERS)
            raise SettingError(f"--heads {text}: give CLASSIFIER=FOLDER, a classifier of {kinds}")
        if not (Path(folder) / "config.json").is_file():
            raise SettingError(f"--heads {text}: no heads in {folder}; name a trained folder")
        found[classifier] = Path(folder)
    return found


def rules(
    backbone: Backbone,
    classifiers: Sequence[str],
    skipped_states: Sequence[str],
    thresholds: Sequence[float],
) -> list[Rule]:
    """The grid of one backbone, one set of heads after the other.

    Args:
        backbone: its model decides which states are evaluated.
        classifiers: kinds of heads.
        skipped_states: each is evaluated where the model has it.
        thresholds: each in [0, 1].

    Raises:
        SettingError: a threshold out of range.
    """
    for threshold in thresholds:
        if not 0.0 <= threshold <= 1.0:
            raise SettingError(f"--thresholds {threshold}: give numbers in [0, 1]")
    known = [state for state in skipped_states if state in STATES[backbone.model]]
    return [Rule(*one) for one in product(classifiers, known, thresholds)]


def check_states(skipped_states: Sequence[str], backbones: Sequence[Backbone]) -> None:
    """Refuse a policy that no chosen model has.

    Raises:
        SettingError: with its name.
    """
    for state in skipped_states:
        if not any(state in STATES[backbone.model] for backbone in backbones):
            raise SettingError(f"--skipped_states {state}: no chosen model has it")
