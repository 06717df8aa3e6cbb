"""A certificate to take apart."""

from __future__ import annotations

from typing import Any

from dynamax_lm.certificate import (
    Certificate,
    CertifiedTask,
    GridPoint,
    Setting,
    TaskOutcome,
    TaskSetup,
)

P_VALUES = ((0.99, 1e-9), (0.95, 0.001), (0.9, 0.049), (0.8, 0.3))


def make_setup(**changes: Any) -> TaskSetup:
    fields: dict[str, Any] = {
        "name": "toy_gen",
        "version": "1.0",
        "output_type": "generate_until",
        "num_fewshot": 2,
        "generation_kwargs": {"until": ["\n"], "do_sample": False},
        "repeats": 1,
        "apply_chat_template": False,
        "system_instruction": None,
    }
    return TaskSetup(**fields | changes)


def make_setting(**changes: Any) -> Setting:
    fields: dict[str, Any] = {
        "model": "dynamax-mamba",
        "pretrained": "tiny",
        "dtype": "torch.float32",
        "exit_layers": (4, 8),
        "confidence": "head",
        "skipped_state": "propagate",
        "heads": "ab12",
    }
    return Setting(**fields | changes)


def make_certificate(**changes: Any) -> Certificate:
    def point(threshold: float, p_value: float) -> GridPoint:
        outcome = TaskOutcome(task="toy_gen", mean_loss=0.01, p_value=p_value, flops_saved=-0.1)
        return GridPoint(threshold=threshold, outcomes=(outcome,))

    task = CertifiedTask(setup=make_setup(), documents=400, digest="0" * 64, data="file.jsonl")
    fields: dict[str, Any] = {
        "metric": "agreement",
        "risk": 0.05,
        "delta": 0.05,
        "threshold": 0.9,
        "grid": tuple(point(*pair) for pair in P_VALUES),
        "method": "betting",
        "seed": 1234,
        "tasks": (task,),
        "setting": make_setting(),
        "date": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
    }
    return Certificate(**fields | changes)
