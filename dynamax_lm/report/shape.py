"""Validation of the structure of a results file: which values are tables, lists, numbers or names.

A file of another structure is omitted with one line, so that other modules need no checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamax_lm.common.validation import is_finite
from dynamax_lm.core.totals import SCHEMA, RunTotals, other_schema

_TABLES_OF_TABLES = ("configs", "higher_is_better", "n-samples")
_TABLES = ("versions", "n-shot", "task_hashes", "group_subtasks", "groups")
_NAMES_OR_NONE = (
    *("heads", "trace_dir", "heads_fingerprint", "look"),
    *("prompt_maps", "prompt_maps_fingerprint"),
)
_NAMES = ("confidence", "skipped_state", "mode", "model", "pretrained")


def check_shape(data: Any) -> None:
    """Refuses a results file with an invalid structure.

    Raises:
        ValueError: a value is missing, or of another type.
    """
    root = _table("the file", data)
    for task, numbers in _table("results", root.get("results")).items():
        _table(f"results.{task}", numbers)
    for name in _TABLES_OF_TABLES:
        for task, value in _optional(name, root).items():
            _table(f"{name}.{task}", value)
    for name in _TABLES:
        _optional(name, root)
    for group, members in _optional("group_subtasks", root).items():
        _list(f"group_subtasks.{group}", members, str)
    for task, config in _optional("configs", root).items():
        _check_config(f"configs.{task}", config)
    config = _optional("config", root)
    block = config.get("early_exit")
    if block:
        _check_block(_table("config.early_exit", block))
    given = config.get("model_args")
    if given is not None and not isinstance(given, (str, Mapping)):
        raise ValueError("config.model_args is neither text nor a table")


def _check_config(where: str, config: Mapping[str, Any]) -> None:
    for number, metric in enumerate(_list(f"{where}.metric_list", config.get("metric_list") or [])):
        _table(f"{where}.metric_list.{number}", metric)
    _optional("metadata", config, where)


def _check_block(block: Mapping[str, Any]) -> None:
    where = "config.early_exit"
    if block.get("schema") != SCHEMA:  # before fields that other versions may lack
        raise ValueError(other_schema(block.get("schema")))
    settings = _table(f"{where}.settings", block.get("settings"))
    for name in _NAMES:
        if not isinstance(settings.get(name), str):
            raise ValueError(f"{where}.settings.{name} is no text")
    _list(f"{where}.settings.exit_layers", settings.get("exit_layers"), int)
    threshold = settings.get("threshold")
    each = threshold if isinstance(threshold, list) and threshold else [threshold]
    if not all(is_finite(one) for one in each):
        raise ValueError(f"{where}.settings.threshold is no number")
    if settings.get("exit_rule") is not None and not isinstance(settings["exit_rule"], str):
        raise ValueError(f"{where}.settings.exit_rule is no text")
    for name, value in _optional("exit_rule_args", settings, f"{where}.settings").items():
        if not is_finite(value):
            raise ValueError(f"{where}.settings.exit_rule_args.{name} is no number")
    prompt_exit = settings.get("prompt_exit")
    if prompt_exit is not None and type(prompt_exit) is not int:
        raise ValueError(f"{where}.settings.prompt_exit is no layer")
    for name in _NAMES_OR_NONE:
        if settings.get(name) is not None and not isinstance(settings[name], str):
            raise ValueError(f"{where}.settings.{name} is no text")
    _optional("arguments", settings, f"{where}.settings")
    _optional("checkpoint", settings, f"{where}.settings")
    layers = block.get("layers")
    if not isinstance(layers, int) or isinstance(layers, bool):
        raise ValueError(f"{where}.layers is no count")
    costs = _optional("costs", block, where)
    for extra in _list(f"{where}.costs.exit_extras", costs.get("exit_extras") or []):
        _table(f"{where}.costs.exit_extras", extra)
    for name in ("identity", "heads", "seconds", "skipped", "products", "prompt_maps"):
        _optional(name, block, where)
    certificate = _optional("certificate", block, where)
    for task, label in _optional("applies", certificate, f"{where}.certificate").items():
        _table(f"{where}.certificate.applies.{task}", label)
    for task, setup in _optional("setups", certificate, f"{where}.certificate").items():
        _table(f"{where}.certificate.setups.{task}", setup)
    _check_totals(block)


def _check_totals(block: Mapping[str, Any]) -> None:
    """The totals must equal those that were written, number by number."""
    where = "config.early_exit"
    try:
        again = RunTotals.from_json(block).to_json()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} lacks totals: {error!r}") from error
    _same_shape(where, again, block)


def _same_shape(where: str, wanted: Any, there: Any) -> None:
    if isinstance(wanted, Mapping):
        table = _table(where, there)
        for name, value in wanted.items():
            _same_shape(f"{where}.{name}", value, table.get(name))
    elif is_finite(wanted) and there is not None and not is_finite(there):
        raise ValueError(f"{where} is no number")


def _table(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is no table")
    return value


def _optional(name: str, table: Mapping[str, Any], where: str = "") -> Mapping[str, Any]:
    value = table.get(name)
    return {} if value is None else _table(f"{where}.{name}".lstrip("."), value)


def _list(where: str, value: Any, kind: type | None = None) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is no list")
    if kind is not None and not all(type(one) is kind for one in value):
        raise ValueError(f"{where} has values of another kind")
    return value
