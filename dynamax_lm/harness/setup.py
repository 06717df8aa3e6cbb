"""The setup of a run and its tasks, as a certificate records it.

It is read from lm-eval's task objects and from a model's announcement.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dynamax_lm.common.certificate import Setting, TaskSetup
from dynamax_lm.core.looks import looking
from dynamax_lm.harness.rendering import chat_template_of, rendering_of
from dynamax_lm.harness.run_registry import certificate_at_stake, run_of

_PROMPTING = "_early_exit_prompting"


class Prompting(NamedTuple):
    """Arguments of prompts that lm-eval has only while it builds requests.

    Attributes:
        chat: whether the model's chat template is applied.
        multiturn: whether examples are turns of the conversation.
        template: digest of the chat template, or ``None``.
        system: the system prompt, or ``None``.
        random_state: of the generator that draws examples, before the first.
        cached: whether requests came from a cache and differ from those that the task renders now.
    """

    chat: bool = False
    multiturn: bool = False
    template: str | None = None
    system: str | None = None
    random_state: object = None
    cached: bool = False


def build_noted(original: Callable[..., Any], task: Any, options: Mapping[str, Any]) -> Any:
    """Builds a task's requests, and stores on the task how they were rendered.

    Requests from lm-eval's cache, whose key has neither templates nor generation options, are
    compared with those that the task renders now.

    Args:
        original: ``Task.build_all_requests``.
        task: lm-eval's task object.
        options: its keyword arguments.
    """
    state = _random_state(task)
    result = original(task, **options)
    compared = bool(options.get("cache_requests")) and certificate_at_stake()
    chat = bool(options.get("apply_chat_template"))
    noted = Prompting(
        chat=chat,
        multiturn=chat and bool(options.get("fewshot_as_multiturn")),
        template=chat_template_of(options.get("chat_template")) if chat else None,
        system=options.get("system_instruction") or None,
        random_state=state,
        cached=compared and not _as_rendered_now(original, task, options, state),
    )
    setattr(task, _PROMPTING, noted)
    return result


def _random_state(task: Any) -> Any:
    """Of the generator that draws examples; ``None`` where the task has none."""
    generator = getattr(getattr(task, "sampler", None), "rnd", None)
    return generator.getstate() if isinstance(generator, random.Random) else None


def _as_rendered_now(
    original: Callable[..., Any], task: Any, options: Mapping[str, Any], state: Any
) -> bool:
    """Whether the task's requests are those that it would render without a cache."""
    if state is not None:
        task.sampler.rnd.setstate(state)
    cached = task._instances
    rendered_anew = {"cache_requests": False, "rewrite_requests_cache": False}
    original(task, **{**options, **rendered_anew})
    now, task._instances = task._instances, cached
    return [_sent(one) for one in now] == [_sent(one) for one in cached]


def _sent(instance: Any) -> tuple[Any, ...]:
    return (instance.request_type, instance.args, instance.doc, instance.repeats)


def setup_of(task: Any) -> TaskSetup:
    """The setup of an evaluated task."""
    noted: Prompting = getattr(task, _PROMPTING, Prompting())
    directions = type(task).higher_is_better(task).items()  # without added metrics
    metrics = {str(name): up if isinstance(up, bool) else None for name, up in directions}
    return TaskSetup(
        name=str(task.task_name),
        version=str((task.get_config("metadata") or {}).get("version", "unknown")),
        output_type=str(task.OUTPUT_TYPE),
        num_fewshot=int(task.get_config("num_fewshot") or 0),
        generation_kwargs=_generation_options(task),
        repeats=int(task.get_config("repeats") or 1),
        apply_chat_template=noted.chat,
        fewshot_as_multiturn=noted.multiturn,
        chat_template=noted.template,
        system_instruction=noted.system,
        rendering=rendering_of(task, noted.random_state),
        metrics=metrics,
        cached=noted.cached,
    )


def _generation_options(task: Any) -> dict[str, Any] | None:
    """Options as sent with the requests; several kinds are listed."""
    sent: dict[str, dict[str, Any]] = {}
    for instance in task.instances or ():
        if instance.request_type == "generate_until":
            text = json.dumps(instance.args[1], sort_keys=True, default=str)
            sent.setdefault(text, json.loads(text))
    kinds = [sent[text] for text in sorted(sent)]
    if len(kinds) > 1:
        return {"several": kinds}
    return kinds[0] if kinds else None


def setting_of(lm: object) -> Setting:
    """The model and exits of an announced model; it must have exits."""
    run = run_of(lm)
    assert run is not None, "a model announces itself as it is made"
    return setting_from(run.live.settings)


def setting_from(settings: Mapping[str, Any]) -> Setting:
    """The same, of its announcement's settings."""
    return Setting(
        model=settings["model"],
        pretrained=settings["pretrained"],
        weights=settings["weights"],
        checkpoint=dict(settings["checkpoint"]),
        arguments=dict(settings.get("arguments", {})) | _prompt_exit(settings),
        dtype=settings["dtype"],
        exit_layers=tuple(settings["exit_layers"]),
        confidence=looking(settings["confidence"], settings.get("look")),
        skipped_state=settings["skipped_state"],
        heads=settings.get("heads_fingerprint"),
    )


def _prompt_exit(settings: Mapping[str, Any]) -> dict[str, str]:
    """The prompt exit and its maps as arguments that can change an answer, if there are any."""
    layer, maps = settings.get("prompt_exit"), settings.get("prompt_maps_fingerprint")
    found = {} if layer is None else {"prompt_exit": str(layer)}
    return found if maps is None else {**found, "prompt_maps": str(maps)}
