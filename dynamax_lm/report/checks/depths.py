"""Checks that each token exited where its confidence first reached the threshold.

These are all checks of single rows of a trace against the settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.core.measures import NOTHING
from dynamax_lm.core.summary import GENERATION
from dynamax_lm.core.thresholds import cutoff_of
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.costs import measure_of
from dynamax_lm.report.rules import is_known, number_of, rule_of
from dynamax_lm.report.runs import Run


def check_depths(
    where: str, run: Run, task: str, lines: Iterable[TraceLine], found: Verification
) -> None:
    """Every row of one task's trace against the settings.

    Args:
        where: names the run and the task.
        run: of the settings.
        task: the task's name.
        lines: its rows.
        found: collects mismatches.
    """
    rule = _Rule(run)
    generates = (run.of_task("configs", task) or {}).get("output_type") == GENERATION
    firsts: dict[tuple[int, int, int, int], TraceLine] = {}
    for line in lines:
        found.checked += 1
        wrong = rule.fault(line)
        answer = (line.doc_id, line.request, line.repeat, line.window)
        first = firsts.setdefault(answer, line)
        for name in ("prompt_tokens", "text_tokens"):
            here, there = getattr(line, name), getattr(first, name)
            if wrong is None and here != there:
                wrong = f"{name} is {here}, of its answer's first token {there}"
        if wrong is None and line.task != task:
            wrong = f"it says task {line.task!r}"
        if wrong is None and generates and line.emitted != line.token:
            wrong = f"generated token {line.token}, but emitted {line.emitted}"
        if wrong is not None:
            found.mismatches.append(
                f"{where} document {line.doc_id} request {line.request} token {line.position}: "
                f"{wrong}"
            )


class _Rule:
    """The constraints of a run's settings on a row."""

    def __init__(self, run: Run) -> None:
        settings = run.settings
        self.layers = run.layers
        self.exits: list[int] = list(settings.get("exit_layers") or ())
        self.confidence = settings.get("confidence")
        self.measure = measure_of(run)
        self.steps = 0 if self.measure is None else self.measure.steps(len(self.exits))
        self.known = is_known(settings)
        self.lossless = settings.get("mode") == "lossless"
        self.rule = rule_of(settings) if self.known else None
        self.threshold = number_of(settings)
        self.reference = bool(settings.get("reference"))
        self.prompt_exit = settings.get("prompt_exit")
        vocabulary: Any = ((run.early_exit or {}).get("costs") or {}).get("vocabulary")
        self.vocabulary: float = vocabulary if isinstance(vocabulary, int) else math.inf

    def fault(self, line: TraceLine) -> str | None:
        """The fault of a row, or ``None``."""
        depth, confidence = line.layers_used, line.confidence
        if depth != self.layers and depth not in self.exits:
            return f"{depth} layers, which is no exit"
        for name in ("token", "emitted", "full_depth"):
            value = getattr(line, name)
            if value is not None and not 0 <= value < self.vocabulary:
                return f"{name} {value} is not in the vocabulary"
        if line.prompt_exit != self.prompt_exit:
            return f"prompt_exit is {line.prompt_exit}, in the settings {self.prompt_exit}"
        if (line.full_depth is not None) != self.reference:
            return f"full_depth is {line.full_depth} under reference={self.reference}"
        if not self.exits:
            return None if confidence is None else f"confidence {confidence} without an exit"
        if self.lossless:  # every token ran all layers, whatever exits drafted
            if depth != self.layers:
                return f"{depth} layers under mode=lossless"
            return None if confidence is None else self._confidence_fault(confidence)
        if self.measure is NOTHING:
            wrong = (
                None
                if confidence is None
                else f"confidence {confidence}, although none is evaluated"
            )
            return wrong or self._depth_fault(depth, math.nan, line.position)
        if confidence is None:
            return "no confidence, although an exit was evaluated"
        wrong = self._confidence_fault(confidence)
        return wrong or self._depth_fault(depth, confidence, line.position)

    def _confidence_fault(self, confidence: float) -> str | None:
        if not 0.0 <= confidence <= 1.0:
            return f"confidence {confidence} is not in [0, 1]"
        if float(np.float32(confidence)) != confidence:
            return f"confidence {confidence} is no float32"
        steps = self.steps
        if steps and abs(confidence * steps - round(confidence * steps)) > 1e-5:
            return f"confidence {confidence} is no multiple of 1/{steps}"
        if self.confidence == "top_prob" and confidence * self.vocabulary < 1.0 - 1e-3:
            return f"confidence {confidence} is below 1/{self.vocabulary}"
        return None

    def _depth_fault(self, depth: int, confidence: float, step: int) -> str | None:
        if not self.known:
            return None
        thresholds = [self._threshold(exit, step) for exit in range(len(self.exits))]
        cutoffs = [
            cutoff_of(one, self.measure or "top_prob", len(self.exits)) for one in thresholds
        ]
        early = depth != self.layers
        place = self.exits.index(depth) if early else len(self.exits)
        if -math.inf in cutoffs[:place]:
            first = self.exits[cutoffs.index(-math.inf)]
            return f"{depth} layers under threshold 0, not {first}"
        if early and cutoffs[place] == math.inf:
            return f"left at layer {depth} under threshold 1, which never leaves"
        # The loop compares in float32. A token that ran all layers has the last confidence.
        last = min(place, len(self.exits) - 1)
        always = cutoffs[last] == -math.inf
        if (always or bool(np.float32(confidence) >= np.float32(cutoffs[last]))) == early:
            return None
        what = f"exited at layer {depth}" if early else "ran every layer"
        return f"{what} with confidence {confidence} under threshold {thresholds[last]}"

    def _threshold(self, exit: int, step: int) -> float:
        return self.threshold if self.rule is None else self.rule.at(exit, step)
