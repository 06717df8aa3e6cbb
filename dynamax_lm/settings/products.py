"""The choice of matrix products: a model argument, or an environment variable."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynamax_lm.settings.values import is_missing, read_name

NAME = "products"
VARIABLE = "DYNAMAX_LM_PRODUCTS"
WAYS = ("auto", "packed", "plain")
"""Measured on the machine at hand, packed for oneDNN, or torch's ``F.linear``."""


def read_products(value: object, environment: Mapping[str, str] = os.environ) -> str:
    """The value given, else the environment variable's, else ``auto``.

    Raises:
        SettingError: none of them.
    """
    if not is_missing(value):
        return read_name(NAME, value, WAYS) or WAYS[0]
    return read_name(VARIABLE, environment.get(VARIABLE) or None, WAYS) or WAYS[0]
