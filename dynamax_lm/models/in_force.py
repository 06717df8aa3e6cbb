"""What follows from the settings in force: the exit policy, and the ledger that bills answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import HeadCosts, Ledger
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prompt_maps import PromptMaps
from dynamax_lm.settings import ExitSettings


def policy_of(settings: ExitSettings, maps: PromptMaps | None) -> ExitPolicy:
    """When tokens exit, with the ``maps`` of prompt tokens that do."""
    policy = FULL_DEPTH
    if settings.exit_layers:
        threshold = settings.threshold if isinstance(settings.threshold, float) else 0.0
        policy = ExitPolicy(settings.exit_layers, settings.measure, threshold, settings.rule)
    return replace(policy, prompt_exit=settings.prompt_exit, prompt_maps=maps)


def ledger_of(
    settings: ExitSettings,
    costs: DecoderCosts,
    extras: Sequence[HeadCosts],
    maps: PromptMaps | None,
) -> Ledger:
    """The ledger of these settings.

    Args:
        settings: in force.
        costs: of the layers that run.
        extras: what is trained for each exit; empty for nothing.
        maps: of prompt tokens that exit, if any.
    """
    return Ledger(
        costs,
        exit_layers=settings.exit_layers,
        confidence=settings.measure,
        skipped_state=settings.skipped_state,
        exit_extras=extras,
        prompt_exit=settings.prompt_exit,
        prompt_maps=0 if maps is None else maps.flops,
        lossless=settings.draft_length is not None,
    )
