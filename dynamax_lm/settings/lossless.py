"""Settings under ``mode=lossless``: default threshold, draft length, and refused combinations."""

from __future__ import annotations

from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.thresholds import PLAIN, rule_class
from dynamax_lm.settings.values import as_integer, is_missing, read_count, refusal

LOSSLESS = "lossless"
AUTO = "auto"
THRESHOLD = 0.4
"""Default threshold: a draft ends below this confidence, as in transformers' assisted generation.
Exactness does not depend on it."""


def read_draft_length(value: object, mode: str) -> int | None:
    """Largest number of tokens in a draft, or 0 for ``auto``; ``None`` in another mode.

    Raises:
        SettingError: neither ``auto`` nor a whole number of at least 1, or another mode.
    """
    if is_missing(value):
        return 0 if mode == LOSSLESS else None
    if mode != LOSSLESS:
        raise refusal("draft_length", value, "drafts are made in mode=lossless only; leave it out")
    if isinstance(value, str) and value.strip() == AUTO:
        return 0
    number = as_integer(value)
    if number is None or number < 1:
        raise refusal("draft_length", value, "give auto, or a whole number of at least 1")
    return number


def read_rows_in_flight(value: object, mode: str) -> int | None:
    """Rows generated at a time; ``None`` for the default.

    Raises:
        SettingError: not a whole number of at least 1, or lossless decoding.
    """
    rows = read_count("rows_in_flight", value)
    if rows is not None and mode == LOSSLESS:
        why = "mode=lossless decodes whole batches; give batch_size, and leave it out"
        raise refusal("rows_in_flight", value, why)
    return rows


def lossless_state(given: str | None) -> str:
    """The skipped-state policy: none, as skipped layers run when a draft is verified.

    Raises:
        SettingError: the user gave one.
    """
    if given is not None and given != "recompute":
        why = "in mode=lossless skipped layers run when a draft is verified; leave it out"
        raise refusal("skipped_state", given, why)
    return "recompute"


def check_lossless(confidence: str) -> None:
    """Refuse a measure that compares with full depth's token, unknown during a draft.

    Raises:
        SettingError: such a measure.
    """
    if facts_of(confidence).needs_target:
        why = "a draft does not know full depth's tokens; name another measure for mode=lossless"
        raise refusal("confidence", confidence, why)


def lossless_threshold(rule: str, given: str | None) -> float:
    """The threshold, by default that of this module.

    Raises:
        SettingError: ``certified``, since a lossless run needs no certificate.
    """
    if given is not None:
        why = "mode=lossless gives full depth's answers at any threshold; give a number"
        raise refusal("threshold", given, why)
    return THRESHOLD if rule == PLAIN or rule_class(rule).takes_threshold else 0.0


def lossless_exit(exits: tuple[int, ...], *, chosen: bool) -> tuple[int, ...]:
    """The one exit that drafts: by default the first.

    Raises:
        SettingError: the user gave several.
    """
    if chosen and len(exits) > 1:
        why = f"in mode=lossless one exit drafts; choose one, such as exit_layers={exits[0]}"
        raise refusal("exit_layers", list(exits), why)
    return exits[:1]
