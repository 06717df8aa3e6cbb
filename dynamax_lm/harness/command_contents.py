"""What a command's names stand for: the contents of checkpoints, heads and tasks.

A point of a sweep counts as finished only if they are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamax_lm import __version__
from dynamax_lm.common.contents import folder_digest
from dynamax_lm.common.errors import SettingError, error_line
from dynamax_lm.common.extensions import source_digest
from dynamax_lm.core.totals import SCHEMA
from dynamax_lm.decoders.checkpoint import BY_MODEL, given_or_default, resolve_name
from dynamax_lm.harness.command_line import Command
from dynamax_lm.harness.rendering import task_digest

_READ = (".json", ".safetensors", ".model", ".jinja", ".txt", ".py", ".gguf")
"""Suffixes of the files that checkpoints, tokenizers, adapters and heads are loaded from."""

_REPOSITORIES = ("pretrained", "tokenizer", "peft", "delta", "heads", "prompt_maps")
"""Arguments that may name a repository of the hub."""


def of_arguments(model: str, model_args: Mapping[str, Any]) -> dict[str, str]:
    """The contents of everything that model arguments name: folders, hub repositories, code.

    A repository of the hub counts by its snapshot in the local cache, so that the contents are
    known once it is loaded. ``trace_dir``, which the sweep itself writes to, does not count.
    """
    given = {name: value for name, value in model_args.items() if name != "trace_dir"}
    if architecture := BY_MODEL.get(model):
        name = str(given_or_default(given.get("pretrained"), architecture))
        given["pretrained"] = resolve_name(name, architecture)
    found = {}
    for name, value in sorted(given.items()):
        if code := source_digest(value):
            found[name] = code
        elif folder := _folder(name, value, model_args):
            found[name] = folder_digest(folder, _READ)
    return found


def of_command(
    command: Command, model_args: Mapping[str, Any], tasks: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that a command's numbers depend on, as JSON can tell it.

    Args:
        command: its options.
        model_args: of the model, in place of the command's own.
        tasks: as :func:`of_tasks` gives them.
    """
    import lm_eval

    config = command.config
    return {
        "model": config.model,
        "model_args": dict(model_args),
        "tasks": config.tasks,
        "num_fewshot": config.num_fewshot,
        "limit": config.limit,
        "gen_kwargs": config.gen_kwargs,
        "chat": [
            config.apply_chat_template,
            config.system_instruction,
            config.fewshot_as_multiturn,
        ],
        "seed": config.seed,
        "batch_size": config.batch_size,
        "versions": [__version__, SCHEMA, lm_eval.__version__],
        "contents": of_arguments(str(config.model), model_args),
        "task contents": dict(tasks),
    }


def of_tasks(command: Command) -> dict[str, str]:
    """The digest of each task as it is rendered, its documents and examples among it.

    Raises:
        SettingError: a task cannot be loaded.
    """
    names = command.config.tasks
    try:
        tasks = command.tasks.load(list(names))["tasks"]
    except Exception as error:  # a task's code and the hub's client may raise anything
        line = error_line(error, 200)
        raise SettingError(
            f"tasks={','.join(map(str, names))}: cannot be loaded: {line}"
        ) from error
    few_shot = command.config.num_fewshot
    return {name: task_digest(task, num_fewshot=few_shot) for name, task in sorted(tasks.items())}


def _folder(name: str, value: Any, model_args: Mapping[str, Any]) -> Path | None:
    if not isinstance(value, str):
        return None
    folder = Path(value).expanduser()
    if folder.is_dir():
        return folder
    return _snapshot(value, model_args) if name in _REPOSITORIES else None


def _snapshot(repository: str, model_args: Mapping[str, Any]) -> Path | None:
    """The folder of a hub repository in the local cache, if it has been downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("config.json", "adapter_config.json", "tokenizer_config.json"):
        try:
            found = try_to_load_from_cache(
                repository,
                file,
                cache_dir=model_args.get("cache_dir"),
                revision=model_args.get("revision") or "main",
            )
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None
