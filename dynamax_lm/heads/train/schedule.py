"""The schedule of a head training: its steps, stages and learning rates.

Learning rates are a function of the step, so that a resumed run restores no scheduler. Stock
schedulers would be a further state to save, of two stages over one optimiser; transformers' cosine
schedule also starts at a rate of 0, with which a stage of one step has no effect, and torch's warns
about each step that mixed precision skips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The schedule of a run.

    Attributes:
        max_steps: of the whole run.
        translator_steps: the first steps, which train translators alone; the rest train the
            classifiers. 0 without translators, ``max_steps`` without classifiers.
        joint: both are trained at every step instead.
        lr: highest learning rate of the classifiers.
        translator_lr: highest learning rate of the translators.
        warmup: share of a stage in which the rate increases; it then decreases as a cosine to 0.
        weight_decay: of AdamW, on matrices.
        seed: of everything random.
        save_every: steps between checkpoints.
        log_every: steps between rows of the log.
    """

    max_steps: int
    translator_steps: int
    joint: bool = False
    lr: float
    translator_lr: float
    warmup: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0
    save_every: int = 200
    log_every: int = 20

    def stage(self, step: int) -> tuple[float, float]:
        """Learning rates of (translators, classifiers) at ``step``, counted from 0."""
        if self.joint:
            scale = self._scale(step, self.max_steps)
            return self.translator_lr * scale, self.lr * scale
        first = self.translator_steps
        if step < first:
            return self.translator_lr * self._scale(step, first), 0.0
        return 0.0, self.lr * self._scale(step - first, self.max_steps - first)

    def _scale(self, step: int, steps: int) -> float:
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
