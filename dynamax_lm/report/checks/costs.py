"""Checks that the recorded widths of a run are those of a model with its number of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamax_lm.core.ledger import HeadCosts
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.costs import costs_of, exit_extras_of, measure_of, skipped_state_of
from dynamax_lm.report.runs import Run


def check_costs(run: Run, found: Verification) -> None:
    """The widths of the model and of the trained modules of its exits."""
    where = f"{run.path} early_exit"
    block = run.early_exit or {}
    written: Mapping[str, Any] = block.get("costs") or {}
    costs, extras = costs_of(run), exit_extras_of(run)
    outside = "layers" in (run.settings.get("arguments") or {})  # code that is not run to verify
    if written:
        right = (costs is not None or outside) and "architecture" in written and extras is not None
        each = written.get("exit_extras") or ()
        right = right and all(set(extra) == set(HeadCosts._fields) for extra in each)
        found.require(right, f"{where} costs: not the widths of a model")
    found.require(
        measure_of(run) is not None,
        f"{where} costs measure: no facts of {run.settings.get('confidence')}",
    )
    found.require(
        skipped_state_of(run) is not None,
        f"{where} costs skipped_state: no facts of {run.settings.get('skipped_state')}",
    )
    if "measure" in written:
        exits = run.settings.get("exit_layers") or ()
        checks = dict(written["measure"]).get("flops") or ()
        found.compare(f"{where} costs measure flops", len(checks), len(exits))
    if costs is not None:
        found.compare(f"{where} layers", block.get("layers"), costs.n_layers)
    if written.get("exit_extras"):  # none without heads
        exits = run.settings.get("exit_layers") or ()
        found.compare(f"{where} costs exit_extras", len(written["exit_extras"]), len(exits))
