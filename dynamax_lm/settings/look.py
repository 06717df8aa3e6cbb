"""The argument ``look``: how a confidence that reads logits looks at the vocabulary."""

from __future__ import annotations

from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.looks import FULL, Look, read_look
from dynamax_lm.core.measures import NOTHING, facts_of
from dynamax_lm.settings.values import hint, is_missing, refusal

NAME = "look"
_FORMS = "give full, rank:R, rank:R+refine:M, shortlist:M or rank:R+shortlist:M, such as rank:64"
_KINDS = ("full", "rank", "refine", "shortlist")


def read_look_setting(value: object) -> Look:
    """The look; the exact projection where none was given.

    Raises:
        SettingError: no look.
    """
    if is_missing(value):
        return FULL
    word = value.strip() if isinstance(value, str) else ""
    try:
        return read_look(word)
    except ValueError:
        kind = str(value).partition(":")[0]
        near = "" if kind in _KINDS else hint(kind, _KINDS)
        raise refusal(NAME, value, f"{_FORMS}{near}") from None


def check_look(
    look: Look, confidence: str, exits: tuple[int, ...], costs: DecoderCosts | None
) -> None:
    """Refuse a look that this measure, these exits or this vocabulary cannot have.

    Args:
        look: as given.
        confidence: name of the measure.
        exits: of the run; none at full depth.
        costs: of the decoder, where its sizes are known.

    Raises:
        SettingError: such a look.
    """
    if look == FULL:
        return
    if confidence == NOTHING.name:
        raise refusal(NAME, look.name, "this exit rule evaluates no confidence; leave it out")
    if facts_of(confidence).reads != "logits":
        why = f"confidence={confidence} reads no logits; leave it out, or give confidence=top_prob"
        raise refusal(NAME, look.name, why)
    if costs is not None and look.rank > costs.width:
        why = f"the unembedding has rank {costs.width} at most; give rank:R with R up to that"
        raise refusal(NAME, look.name, why)
    if costs is not None and max(look.shortlist, look.refine) > costs.vocabulary:
        why = f"the vocabulary has {costs.vocabulary} tokens; give M up to that"
        raise refusal(NAME, look.name, why)
    if exits and len(exits) < look.least_exits:
        why = (
            f"the first exit draws the list by the exact projection, and later ones read it; "
            f"exit_layers is {list(exits)}; give two or more, or rank:R+{look.name}"
        )
        raise refusal(NAME, look.name, why)
