"""Checks of a run's ``config``: settings are consistent, and its certificate follows from them.

These are the relations between arguments, settings, identity, fingerprint, heads and certificate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamax_lm import __version__
from dynamax_lm.common.certificate import CertificateError
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.extensions import without_digest
from dynamax_lm.common.identity import fingerprint_of
from dynamax_lm.common.validation import is_finite
from dynamax_lm.core.looks import FULL
from dynamax_lm.core.summary import GENERATION, HIGHER_IS_BETTER
from dynamax_lm.core.thresholds import PLAIN
from dynamax_lm.decoders.checkpoint import ARCHITECTURES
from dynamax_lm.harness.results_config import CONVENTION
from dynamax_lm.heads.shipped import shipped_folder
from dynamax_lm.report.certificates import applies_again, of_the_heads
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX
from dynamax_lm.report.runs import Run
from dynamax_lm.settings import OUR_NAMES, mend_split_lists, parse_settings
from dynamax_lm.settings.lossless import AUTO

_NAMED_ELSEWHERE = frozenset({"pretrained", "dtype"})
_ALWAYS = frozenset(
    {
        *("model", "pretrained", "dtype", "weights", "checkpoint", "arguments"),
        *("exit_layers", "confidence", "threshold", "skipped_state", "mode", "reference"),
        *("heads", "heads_fingerprint", "trace_dir"),
    }
)
"""Settings that every run writes."""
_SETTINGS = _ALWAYS | {
    *("exit_rule", "exit_rule_args", "draft_length", "look"),
    *("prompt_exit", "prompt_maps", "prompt_maps_fingerprint"),
}
"""Those that some runs write, too."""
_NOT_RUN = "what it computes: code from outside the package is not run to verify"
_OTHER_VERSION = "its convention is that of another version of dynamax_lm"


def check_settings(run: Run, found: Verification) -> None:
    """All settings in the results against each other."""
    where = f"{run.path} early_exit"
    block, settings = run.early_exit or {}, run.settings
    unknown = ", ".join(sorted(settings.keys() - _SETTINGS))
    found.require(not unknown, f"{where} settings: {unknown} is no setting")
    _check_present(where, block, settings, found)
    _check_identity(where, block, settings, found)
    _check_config(run, settings, found)
    _check_arguments(where, run, settings, found)
    _check_heads(where, block, settings, found)
    _check_prompt_maps(where, block, settings, found)
    _check_certificate(where, run, settings, found)
    version = (block.get("identity") or {}).get("version")
    if version == __version__:
        found.compare(f"{where} convention", block.get("convention"), CONVENTION)
    else:
        found.leave(where, _OTHER_VERSION)


def _check_present(
    where: str, block: Mapping[str, Any], settings: Mapping[str, Any], found: Verification
) -> None:
    """What every run writes is there, of its kind."""
    if missing := sorted(_ALWAYS - settings.keys()):
        found.refuse(f"{where} settings: {', '.join(missing)} missing")
    found.require(
        isinstance(settings.get("arguments"), Mapping), f"{where} settings arguments: no table"
    )
    for name in ("heads", "certificate"):
        found.require(name in block, f"{where} {name}: missing")
        wrong = block.get(name) is not None and not isinstance(block[name], Mapping)
        found.require(not wrong, f"{where} {name}: neither null nor a table")
    extras = (block.get("costs") or {}).get("exit_extras")
    found.require(isinstance(extras, list), f"{where} costs exit_extras: no list")


def _check_identity(
    where: str, block: Mapping[str, Any], settings: Mapping[str, Any], found: Verification
) -> None:
    """The fingerprint is the digest of the identity, and the identity has the settings."""
    identity = block.get("identity")
    if not isinstance(identity, Mapping):
        found.leave(where, "no identity: its fingerprint cannot be made again")
        return
    found.compare(f"{where} fingerprint", block.get("fingerprint"), fingerprint_of(identity))
    for name in ("model", "pretrained", "dtype", "weights", "checkpoint"):
        found.compare(f"{where} settings {name}", settings.get(name), identity.get(name))
    arguments = settings.get("arguments") or {}
    known = identity.get("arguments") or {}
    for name, value in arguments.items():
        found.compare(f"{where} settings arguments {name}", value, known.get(name))
    for name, value in (identity.get("settings") or {}).items():
        own = f"{name}_fingerprint" if name in {"heads", "prompt_maps"} else name
        found.compare(f"{where} settings {own}", settings.get(own), value)


def _check_config(run: Run, settings: Mapping[str, Any], found: Verification) -> None:
    """lm-eval's information on the model, against this package's settings."""
    where, config = f"{run.path} config", run.config
    found.compare(f"{where} model", config.get("model"), settings.get("model"))
    found.compare(f"{run.path} model_source", run.data.get("model_source"), settings.get("model"))
    found.compare(f"{where} model_dtype", config.get("model_dtype"), settings.get("dtype"))
    revision = (settings.get("arguments") or {}).get("revision", "main")
    found.compare(f"{where} model_revision", config.get("model_revision"), revision)
    name = run.data.get("model_name")
    if "peft" not in run.model_args and "delta" not in run.model_args:
        found.compare(f"{run.path} model_name", name, settings.get("pretrained"))


def _check_arguments(
    where: str, run: Run, settings: Mapping[str, Any], found: Verification
) -> None:
    """Every given model argument equals its setting."""
    given = run.config.get("model_args")
    if isinstance(given, str):
        pieces = (part.partition("=") for part in given.split(","))
        given = {name.strip(): value for name, _, value in pieces}
    if not isinstance(given, Mapping) or not given:
        found.leave(where, "no model_args: whether the settings are what was asked for")
        return
    name = f"{run.path} config model_args"
    usual = next((one.default for one in ARCHITECTURES if one.model == settings.get("model")), "")
    asked = given.get("pretrained") or usual
    found.compare(f"{name} pretrained", asked, settings.get("pretrained"))
    arguments = settings.get("arguments") or {}
    for argument, value in given.items():
        if argument in OUR_NAMES or argument in _NAMED_ELSEWHERE:
            continue
        if argument in arguments:
            found.compare(f"{name} {argument}", str(value), arguments[argument])
        elif value is not None:
            found.leave(f"{name} {argument}", "an argument that changes no answer")
    own = mend_split_lists({n: v for n, v in given.items() if n in OUR_NAMES})
    _check_outside(where, own, settings, found)
    try:
        raw = parse_settings(own)
    except SettingError as error:
        found.refuse(f"{name}: {error}")
        return
    for argument in ("confidence", "skipped_state", "mode", "reference", "trace_dir"):
        asked = getattr(raw, argument)
        if asked is not None or argument == "trace_dir":
            found.compare(f"{where} settings {argument}", settings.get(argument), asked)
    if isinstance(raw.threshold, (float, tuple)):
        asked = list(raw.threshold) if isinstance(raw.threshold, tuple) else raw.threshold
        found.compare(f"{where} settings threshold", settings.get("threshold"), asked)
    elif raw.threshold is not None:
        certificate = (run.early_exit or {}).get("certificate") or {}
        found.compare(
            f"{where} settings threshold", settings.get("threshold"), certificate.get("threshold")
        )
    if raw.exit_rule not in (None, PLAIN):
        found.compare(f"{where} settings exit_rule", settings.get("exit_rule"), raw.exit_rule)
    if settings.get("exit_rule"):
        given_args = settings.get("exit_rule_args")
        found.compare(f"{where} settings exit_rule_args", given_args, dict(raw.exit_rule_args))
    look = settings.get("look", FULL.name)
    found.compare(f"{where} settings look", look, raw.look.name)
    if raw.draft_length is not None:
        drafts = raw.draft_length or AUTO
        found.compare(f"{where} settings draft_length", settings.get("draft_length"), drafts)
    asked_exit = raw.prompt_exit if raw.prompt_exit != run.layers else None
    found.compare(f"{where} settings prompt_exit", settings.get("prompt_exit"), asked_exit)
    found.compare(f"{where} settings prompt_maps", settings.get("prompt_maps"), raw.prompt_maps)
    if raw.heads_chosen:
        found.compare(f"{where} settings heads", settings.get("heads"), raw.heads)
    if "exit_layers" in given and settings.get("mode") != "full":
        _check_exits(where, run, raw.exit_layers, settings, found)


def _check_outside(
    where: str, own: dict[str, Any], settings: Mapping[str, Any], found: Verification
) -> None:
    """Classes from outside the package, whose files may be elsewhere.

    Checked arguments are removed from ``own``, this package's arguments.
    """
    layers = (settings.get("arguments") or {}).get("layers")
    for argument in ("confidence", "exit_rule", "skipped_state", "layers"):
        name = str(layers if argument == "layers" else settings.get(argument))
        if name == without_digest(name):
            continue
        if asked := own.pop(argument, None):
            shown = Path(without_digest(str(asked))).name
            found.compare(f"{where} settings {argument}", without_digest(name), shown)
        found.leave(f"{where} {argument}={name}", _NOT_RUN)


def _check_exits(
    where: str, run: Run, rule: Any, settings: Mapping[str, Any], found: Verification
) -> None:
    place = getattr(rule, "place", None)
    if run.layers is None or place is None:
        return
    try:
        placed = list(place(run.layers))
    except SettingError as error:
        found.refuse(f"{where} settings exit_layers: {error}")
        return
    found.compare(f"{where} settings exit_layers", settings.get("exit_layers"), placed)


def _check_heads(
    where: str, block: Mapping[str, Any], settings: Mapping[str, Any], found: Verification
) -> None:
    heads = block.get("heads")
    if heads is None:
        found.compare(f"{where} settings heads", settings.get("heads"), None)
        found.compare(
            f"{where} settings heads_fingerprint", settings.get("heads_fingerprint"), None
        )
        return
    found.require(bool(heads.get("name")), f"{where} heads name: missing")
    found.compare(f"{where} heads name", heads.get("name"), settings.get("heads"))
    found.compare(
        f"{where} heads fingerprint", heads.get("fingerprint"), settings.get("heads_fingerprint")
    )
    trained = set(heads.get("exit_layers") or ())
    unheaded = sorted(set(settings.get("exit_layers") or ()) - trained)
    found.require(not unheaded, f"{where} heads exit_layers: none is trained for {unheaded}")
    _check_backbone(where, heads, found)
    folder = shipped_folder(str(heads.get("name")))
    if folder is None:
        found.leave(f"{where} heads", "the heads are not here to be compared")
        return
    ours = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if ours.get("unembedding_sample") is None:
        found.require(heads.get("backbone") != "rounded", f"{where} heads backbone: no sample")
        found.compare(f"{where} heads backbone_difference", heads.get("backbone_difference"), None)
    for name in ("classifier", "classifier_width", "translator", "exit_layers"):
        found.compare(f"{where} heads {name}", heads.get(name), ours.get(name))
    label = ours.get("label")
    wanted = label if label == "top1" else f"top_{ours.get('label_k')}"
    found.compare(f"{where} heads label", heads.get("label"), wanted)
    if settings.get("mode") == "exit":
        certificate = block.get("certificate")
        own = of_the_heads(certificate) if isinstance(certificate, Mapping) else certificate
        found.compare_exactly(f"{where} certificate", own, ours.get("certificate"))


def _check_backbone(where: str, heads: Mapping[str, Any], found: Verification) -> None:
    """How the backbone was recognised; earlier results do not say."""
    kind, difference = heads.get("backbone"), heads.get("backbone_difference")
    found.require(
        kind in {None, "equal", "rounded"}, f"{where} heads backbone: neither equal nor rounded"
    )
    there = is_finite(difference) and difference >= 0
    found.require(
        there or (difference is None and kind != "rounded"),
        f"{where} heads backbone_difference: no share",
    )


def _check_prompt_maps(
    where: str, block: Mapping[str, Any], settings: Mapping[str, Any], found: Verification
) -> None:
    """The maps that are described are those of the settings; their files may be elsewhere."""
    maps = block.get("prompt_maps") or {}
    name = settings.get("prompt_maps")
    found.compare(f"{where} prompt_maps name", maps.get("name"), name)
    own = settings.get("prompt_maps_fingerprint")
    found.compare(f"{where} prompt_maps fingerprint", maps.get("fingerprint"), own)
    if name is not None:
        own = settings.get("prompt_exit")
        found.compare(f"{where} prompt_maps prompt_exit", maps.get("prompt_exit"), own)
        found.leave(f"{where} prompt_maps", "the maps are not here to be compared")


def _check_certificate(
    where: str, run: Run, settings: Mapping[str, Any], found: Verification
) -> None:
    """The tasks for which the certificate holds, from settings and task setups."""
    certificate = (run.early_exit or {}).get("certificate")
    if certificate is None:
        return
    found.require(settings.get("heads") is not None, f"{where} certificate: no heads carry it")
    setups = certificate.get("setups")
    if not isinstance(setups, Mapping):
        found.refuse(f"{where} certificate: how its tasks rendered requests is not recorded")
        return
    try:
        again = applies_again(certificate, settings)
    except (CertificateError, KeyError, TypeError, AttributeError) as error:
        found.refuse(f"{where} certificate setups: cannot be read ({error!r})"[:300])
        return
    found.compare_exactly(f"{where} certificate applies", certificate.get("applies"), again)
    evaluated = sorted(run.data.get("configs") or {})
    found.compare(f"{where} certificate setups", sorted(setups), evaluated)
    for task in setups:
        found.compare_all(f"{where} certificate setups {task}", setups[task], _setup(run, task))


def _setup(run: Run, task: str) -> dict[str, Any]:
    """The setup of a task, as far as lm-eval's tables determine it."""
    config: Mapping[str, Any] = run.of_task("configs", task) or {}
    chat = bool(run.data.get("chat_template"))
    directions = run.of_task("higher_is_better", task) or {}
    again: dict[str, Any] = {
        "name": config.get("task"),
        "version": str((config.get("metadata") or {}).get("version", "unknown")),
        "output_type": config.get("output_type"),
        "num_fewshot": config.get("num_fewshot") or 0,
        "generation_kwargs": None,
        "repeats": config.get("repeats") or 1,
        "apply_chat_template": chat,
        "fewshot_as_multiturn": chat and bool(run.data.get("fewshot_as_multiturn")),
        "system_instruction": run.data.get("system_instruction") or None,
        "metrics": {
            metric: better
            for metric, better in directions.items()
            if metric not in HIGHER_IS_BETTER and not metric.startswith(FULL_DEPTH_PREFIX)
        },
    }
    if not chat:
        again["chat_template"] = None
    if config.get("output_type") == GENERATION:
        again["generation_kwargs"] = config.get("generation_kwargs")
    return again
