"""The architecture's widths for the ledger, from a run's results.

They are read from the results, or from the checkpoint's configuration if that is a local folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.costs import DecoderCosts, skipped_states
from dynamax_lm.core.ledger import HeadCosts
from dynamax_lm.core.looks import FULL, looking, read_look
from dynamax_lm.core.measures import MeasureFacts, facts_of
from dynamax_lm.core.skipped_states import SkippedFacts, by_kind
from dynamax_lm.decoders.checkpoint import ATTENTION, BY_MODEL, MAMBA2, resolve_name
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba import MambaCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.decoders.costs.record import from_record
from dynamax_lm.report.runs import Run

_FROM_CONFIG = {
    ATTENTION.model: AttentionCosts.from_config,
    MAMBA2.model: Mamba2Costs.from_config,
}
_KINDS = (AttentionCosts, Mamba2Costs, MambaCosts)
_POLICIES = {name for kind in _KINDS for name in skipped_states(kind)}


def costs_of(run: Run) -> DecoderCosts | None:
    """The costs of the run's model, or ``None`` if unknown."""
    written = _written(run)
    for beside in ("exit_extras", "measure", "skipped_state", "prompt_maps"):
        written.pop(beside, None)
    if "architecture" not in written:
        return _from_checkpoint(run)
    try:
        return from_record(written)
    except (AttributeError, TypeError, ValueError):
        return None


def measure_of(run: Run) -> MeasureFacts | None:
    """The facts of the run's measure: the package's, or those recorded of one from outside."""
    try:
        written = _written(run).get("measure")
        if written is None:
            return facts_of(measure_name(run.settings))
        known = MeasureFacts.from_record(written).under(
            read_look(str(run.settings.get("look") or FULL.name))
        )
    except (AttributeError, TypeError, ValueError):
        return None
    return known if known.name == run.settings.get("confidence") else None


def measure_name(settings: Mapping[str, Any]) -> str:
    """The measure of a run's settings, and its look unless that is the exact projection."""
    look = settings.get("look")
    return looking(str(settings.get("confidence")), None if look is None else str(look))


def skipped_state_of(run: Run) -> str | SkippedFacts | None:
    """The run's skipped-state policy: its name, or the facts written down of one from outside."""
    name = run.settings.get("skipped_state")
    try:
        written = _written(run).get("skipped_state")
        if written is None:
            policies = set(by_kind(str(name)).values()) or {str(name)}
            return name if policies <= _POLICIES else None
        known = SkippedFacts.from_record(written)
    except (AttributeError, TypeError, ValueError):
        return None
    return known if known.name == name else None


def exit_extras_of(run: Run) -> list[HeadCosts] | None:
    """Costs of the trained modules of each exit, empty without heads; ``None`` if unknown."""
    extras = _written(run).get("exit_extras")
    if extras is None:
        return None if run.settings.get("heads") else []
    try:
        found = [HeadCosts(**extra) for extra in extras]
    except TypeError:
        return None
    return found if all(type(count) is int for extra in found for count in extra) else None


def prompt_maps_of(run: Run) -> int | None:
    """FLOPs of the maps of a prompt token that exits, 0 without maps; ``None`` if unknown."""
    written = _written(run).get("prompt_maps")
    if written is None:
        return None if run.settings.get("prompt_maps") else 0
    return written if type(written) is int and written >= 0 else None


def _written(run: Run) -> dict[str, Any]:
    return dict((run.early_exit or {}).get("costs") or {})


def checkpoint_folder(run: Run) -> Path | None:
    """The checkpoint's folder on this machine, if it is one."""
    architecture = BY_MODEL.get(run.model, ATTENTION)
    try:
        folder = Path(resolve_name(run.pretrained, architecture))
    except SettingError:
        return None
    return folder if folder.is_dir() else None


def _from_checkpoint(run: Run) -> DecoderCosts | None:
    folder, read = checkpoint_folder(run), _FROM_CONFIG.get(run.model)
    if folder is None or read is None:
        return None
    try:
        return read(SimpleNamespace(**json.loads((folder / "config.json").read_text("utf-8"))))
    except (OSError, ValueError, AttributeError):
        return None
