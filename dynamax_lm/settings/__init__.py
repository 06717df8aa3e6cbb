"""This package's model arguments, from any of lm-eval's three interfaces to one frozen record.

Two stages, both before weights load: ``parse_settings`` reads values as they arrive (syntax), and
``RawSettings.resolve`` checks them against the checkpoint's configuration (ranges, combinations).
"""

from __future__ import annotations

from dynamax_lm.settings.heads import HeadsFacts
from dynamax_lm.settings.measures import find_measure, read_confidence
from dynamax_lm.settings.names import (
    CHANGE_NO_NUMBER,
    FIXED_AT_LOADING,
    FROM_PRETRAINED_NAMES,
    OUR_NAMES,
    mend_split_lists,
    refuse_pickled_weights,
    refuse_unknown,
)
from dynamax_lm.settings.products import read_products
from dynamax_lm.settings.prompts import PromptMapsFacts
from dynamax_lm.settings.record import (
    ExitSettings,
    RawSettings,
    parse_settings,
)
from dynamax_lm.settings.skipped import Architecture, find_skipped_state

__all__ = [
    "CHANGE_NO_NUMBER",
    "FIXED_AT_LOADING",
    "FROM_PRETRAINED_NAMES",
    "OUR_NAMES",
    "Architecture",
    "ExitSettings",
    "HeadsFacts",
    "PromptMapsFacts",
    "RawSettings",
    "find_measure",
    "find_skipped_state",
    "mend_split_lists",
    "parse_settings",
    "read_confidence",
    "read_products",
    "refuse_pickled_weights",
    "refuse_unknown",
]
