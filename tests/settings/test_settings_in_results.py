"""Settings as results carry them: a description and a fingerprint."""

from __future__ import annotations

import json

import pytest

from tests.settings.settled import Given, settle


def test_a_description_is_plain_json_and_can_be_given_back() -> None:
    given = {"exit_layers": "8+16", "threshold": "0.5", "trace_dir": "traces"}
    settings = settle(given)
    described = settings.describe()
    assert json.loads(json.dumps(described)) == described
    assert settle(dict(described)) == settings


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"exit_layers": 8}, True),
        ({"confidence": "margin"}, True),
        ({"threshold": 0.5}, True),
        ({"skipped_state": "copy_kv"}, True),
        ({"mode": "full"}, True),
        ({"reference": False}, True),
        ({"trace_dir": "elsewhere"}, False),
        ({"exit_layers": [28, 24, 20, 16]}, False),
        ({"threshold": "0.9"}, False),
    ],
)
def test_a_fingerprint_has_all_that_can_change_a_number(given: Given, changes: bool) -> None:
    assert (settle(given).fingerprint_fields() != settle({}).fingerprint_fields()) is changes


def test_at_full_depth_the_exits_settings_change_nothing() -> None:
    one, other = {"mode": "full"}, {"mode": "full", "threshold": 0.1, "exit_layers": 3}
    assert settle(one).fingerprint_fields() == settle(other).fingerprint_fields()
