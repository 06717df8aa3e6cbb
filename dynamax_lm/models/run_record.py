"""What results say of a loaded model: what identifies the run, its settings, and its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dynamax_lm import __version__
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import HeadCosts
from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.prompt_maps import PromptMaps
from dynamax_lm.core.skipped_states import registered
from dynamax_lm.core.trace import RECORDS
from dynamax_lm.decoders.checkpoint_identity import CheckpointIdentity
from dynamax_lm.decoders.costs.record import to_record
from dynamax_lm.models.arguments import SAID_ELSEWHERE
from dynamax_lm.settings import ExitSettings


class LoadedModel(NamedTuple):
    """A loaded checkpoint as results name it.

    Attributes:
        model: our name of its architecture.
        pretrained: its name as the user gave it.
        checkpoint: digests of its parts.
        dtype: of its weights.
        arguments: of the ``hf`` model's, those that can change a number.
    """

    model: str
    pretrained: str
    checkpoint: CheckpointIdentity
    dtype: str
    arguments: Mapping[str, str]

    def identity(self, settings: ExitSettings) -> dict[str, Any]:
        """The checkpoint and every setting that can change a number, as JSON values."""
        return {
            "model": self.model,
            "pretrained": self.pretrained,
            "arguments": dict(self.arguments),
            "dtype": self.dtype,
            "weights": self.checkpoint.weights,
            "checkpoint": self.checkpoint.parts,
            "settings": settings.fingerprint_fields(),
            "version": __version__,
            "records": RECORDS,
        }

    def describe(self, settings: ExitSettings) -> dict[str, Any]:
        """The settings of a run's configuration block, as JSON values."""
        arguments = {
            name: value
            for name, value in sorted(self.arguments.items())
            if name not in SAID_ELSEWHERE
        }
        maps = {}
        if settings.prompt_maps is not None:
            maps = {"prompt_maps_fingerprint": settings.prompt_maps_fingerprint}
        return {
            "model": self.model,
            "pretrained": self.pretrained,
            "weights": self.checkpoint.weights,
            "checkpoint": self.checkpoint.parts,
            "dtype": self.dtype,
            "arguments": arguments,
            **settings.describe(),
            "heads_fingerprint": settings.heads_fingerprint,
            **maps,
        }


def cost_record(
    costs: DecoderCosts,
    extras: Sequence[HeadCosts],
    settings: ExitSettings,
    maps: PromptMaps | None = None,
) -> dict[str, Any]:
    """All that a report needs to bill an answer without the checkpoint, as JSON values.

    Classes from outside the package are recorded by what they cost: a report does not run them.
    """
    written = {**to_record(costs), "exit_extras": [extra._asdict() for extra in extras]}
    if maps is not None:
        written["prompt_maps"] = maps.flops
    facts, policy = facts_of(settings.confidence), registered(settings.skipped_state)
    if facts.outside:
        exits = len(settings.exit_layers)
        written["measure"] = facts.record(exits, costs.width, costs.vocabulary)
    if policy is not None:
        written["skipped_state"] = policy.facts.record(costs.parts[0])
    return written
