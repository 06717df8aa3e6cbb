"""Our model arguments as lm-eval's doors pass them, settled or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.utils import simple_parse_args_string

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings import Architecture, ExitSettings, mend_split_lists, parse_settings

Given = dict[str, Any]


def keep_kwargs(**kwargs: object) -> Given:
    """What a model's constructor gets, as lm-eval calls it."""
    return kwargs


DOORS: dict[str, Callable[[str], Given]] = {
    "command line": key_val_to_dict,
    "string interface": simple_parse_args_string,
}


def settle(
    given: Given, n_layers: int = 32, architecture: Architecture = "attention"
) -> ExitSettings:
    raw = parse_settings(mend_split_lists(keep_kwargs(**given)))
    return raw.resolve(n_layers=n_layers, architecture=architecture)


def refused(
    given: Given, *words: str, n_layers: int = 32, architecture: Architecture = "attention"
) -> str:
    """The refusal of ``given``: one line that has every one of ``words``."""
    with pytest.raises(SettingError) as caught:
        settle(given, n_layers, architecture)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 400
    for word in words:
        assert word in line
    return line
