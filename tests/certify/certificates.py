"""A certificate to take apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dynamax_lm.common.certificate import (
    Certificate,
    CertifiedTask,
    GridPoint,
    Setting,
    TaskOutcome,
    TaskSetup,
    loss_kind,
    p_value_of,
    pack,
    unit_means,
)

DOCUMENTS = 400
LOST = {0.99: 0, 0.95: 4, 0.9: 11, 0.8: 40}
"""Documents that lose half their tokens, at each threshold; at 0.8 that is too many."""

VALUES = (0.0, 0.5)


def make_setup(**changes: Any) -> TaskSetup:
    fields: dict[str, Any] = {
        "name": "toy_gen",
        "version": "1.0",
        "output_type": "generate_until",
        "num_fewshot": 2,
        "generation_kwargs": {"until": ["\n"], "do_sample": False},
        "repeats": 1,
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "chat_template": "a1b2",
        "system_instruction": None,
        "rendering": {"doc_to_text": "0123", "description": "4567"},
        "metrics": {"exact_match": True},
    }
    return TaskSetup(**fields | changes)


def make_setting(**changes: Any) -> Setting:
    fields: dict[str, Any] = {
        "model": "dynamax-mamba",
        "pretrained": "tiny",
        "weights": "0a0b",
        "checkpoint": {"config": "0c0d"},
        "arguments": {"max_length": "512"},
        "dtype": "torch.float32",
        "exit_layers": (4, 8),
        "confidence": "head",
        "skipped_state": "propagate",
        "heads": "ab12",
    }
    return Setting(**fields | changes)


def make_task(metric: str = "agreement", **changes: Any) -> CertifiedTask:
    setup = changes.get("setup", make_setup())
    units = changes.get("units", DOCUMENTS)
    kind = loss_kind(metric, setup.metrics, repeats=setup.repeats, grouped=units < DOCUMENTS)
    fields: dict[str, Any] = {
        "setup": setup,
        "documents": DOCUMENTS,
        "digest": "0" * 64,
        "data": "file.jsonl",
        "units": units,
        "grouped_by": "contents",
        "unit_of": pack([place % units for place in range(DOCUMENTS)]),
        "loss": kind.definition,
        "method": kind.method,
        "values": VALUES,
    }
    return CertifiedTask(**fields | changes)


def make_point(
    threshold: float, places: Sequence[int], task: CertifiedTask, *, risk: float, delta: float
) -> GridPoint:
    """One threshold at which documents have the losses at these places among the task's."""
    losses = np.array(task.values)[list(places)]
    units = unit_means(losses, task.unit_numbers())
    outcome = TaskOutcome(
        task=task.setup.name,
        mean_loss=float(units.mean()),
        p_value=p_value_of(task.method, units, risk, delta),
        flops_saved=-0.1,
        losses=pack(places),
    )
    return GridPoint(threshold=threshold, outcomes=(outcome,))


def make_certificate(
    lost: dict[float, int] = LOST, task: CertifiedTask | None = None, **changes: Any
) -> Certificate:
    """Certified are all thresholds of ``lost`` at which few enough documents lose."""
    task = task or make_task()
    bound = {"risk": changes.get("risk", 0.05), "delta": changes.get("delta", 0.05)}
    rng = np.random.default_rng(0)
    grid = []
    for threshold, count in lost.items():
        places = rng.permutation([1] * count + [0] * (task.documents - count)).tolist()
        grid.append(make_point(threshold, places, task, **bound))
        if grid[-1].p_value > bound["delta"]:
            break
    passed = [point.threshold for point in grid if point.p_value <= bound["delta"]]
    fields: dict[str, Any] = {
        **bound,
        "metric": "agreement",
        "threshold": passed[-1] if passed else None,
        "grid": tuple(grid),
        "seed": 1234,
        "tasks": (task,),
        "setting": make_setting(),
        "date": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
    }
    return Certificate(**fields | changes)
