"""How a run and its tasks are set up, as a certificate writes it down.

Owns the reading of lm-eval's task objects and of a model's announcement. It does not know what is
certified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dynamax_lm.certificate import Setting, TaskSetup
from dynamax_lm.harness.live import run_of

_PROMPTING = "_early_exit_prompting"


def note_prompting(task: Any, options: Mapping[str, Any]) -> None:
    """Remembers what lm-eval is told of prompts only while it builds them.

    Args:
        task: lm-eval's task object.
        options: keyword arguments of ``Task.build_all_requests``.
    """
    chat = bool(options.get("apply_chat_template"))
    setattr(task, _PROMPTING, (chat, options.get("system_instruction") or None))


def setup_of(task: Any) -> TaskSetup:
    """How an evaluated task asked."""
    chat, system = getattr(task, _PROMPTING, (False, None))
    generates = task.OUTPUT_TYPE == "generate_until"
    options = task.get_config("generation_kwargs") if generates else None
    return TaskSetup(
        name=str(task.task_name),
        version=str((task.get_config("metadata") or {}).get("version", "unknown")),
        output_type=str(task.OUTPUT_TYPE),
        num_fewshot=int(task.get_config("num_fewshot") or 0),
        generation_kwargs=None if options is None else json.loads(json.dumps(options, default=str)),
        repeats=int(task.get_config("repeats") or 1),
        apply_chat_template=chat,
        system_instruction=system,
    )


def setting_of(lm: object) -> Setting:
    """The model and exits of an announced model; it must have exits."""
    run = run_of(lm)
    assert run is not None, "a model announces itself as it is made"
    return setting_from(run.live.settings)


def setting_from(settings: Mapping[str, Any]) -> Setting:
    """The same, of its announcement's settings."""
    further = (f"{name}={value}" for name, value in settings.get("arguments", {}).items())
    return Setting(
        model=settings["model"],
        pretrained=",".join([settings["pretrained"], *further]),
        dtype=settings["dtype"],
        exit_layers=tuple(settings["exit_layers"]),
        confidence=settings["confidence"],
        skipped_state=settings["skipped_state"],
        heads=settings.get("heads_fingerprint"),
    )
