"""What trained heads bring to the settings: exits, a classifier and a certified threshold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.settings import ExitSettings, HeadsFacts, parse_settings
from tests.settings.settled import Given

HEADS = HeadsFacts(name="my-heads", exit_layers=(4, 9, 20), has_classifier=True, fingerprint="abc")
CERTIFIED = replace(HEADS, certified=0.85, certified_confidence="head")


def with_heads(given: Given, heads: HeadsFacts | None) -> ExitSettings:
    return parse_settings(given).resolve(n_layers=32, architecture="attention", heads=heads)


def refused_with(heads: HeadsFacts | None, given: Given, *words: str) -> None:
    with pytest.raises(SettingError) as caught:
        with_heads(given, heads)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


def test_heads_bring_their_exits_and_their_classifier() -> None:
    settings = with_heads({"heads": "my-heads"}, HEADS)
    assert settings.exit_layers == (4, 9, 20)
    assert (settings.confidence, settings.threshold) == ("head", 0.9)
    assert settings.heads == "my-heads"
    silent = with_heads({}, replace(HEADS, has_classifier=False))
    assert (silent.confidence, silent.exit_layers) == ("top_prob", (4, 9, 20))
    assert with_heads({"confidence": "margin"}, HEADS).confidence == "margin"


def test_exits_are_chosen_among_those_of_the_heads() -> None:
    assert with_heads({"exit_layers": "20+4"}, HEADS).exit_layers == (4, 20)
    refused_with(
        HEADS, {"exit_layers": [4, 8]}, "exit_layers=[4, 8]", "my-heads", "8", "[4, 9, 20]"
    )
    refused_with(HEADS, {"exit_layers": "latter_half"}, "exit_layers=", "heads=none")


def test_a_certificate_names_the_threshold() -> None:
    assert with_heads({}, CERTIFIED).threshold == 0.85
    assert with_heads({"threshold": "certified"}, CERTIFIED).threshold == 0.85
    assert with_heads({"threshold": 0.5}, CERTIFIED).threshold == 0.5
    assert with_heads({"confidence": "margin"}, CERTIFIED).threshold == 0.9
    asked = {"confidence": "margin", "threshold": "certified"}
    assert with_heads(asked, CERTIFIED).threshold == 0.85


def test_what_heads_lack_is_refused() -> None:
    silent = replace(HEADS, has_classifier=False)
    refused_with(silent, {"confidence": "head"}, "confidence=head", "my-heads", "no classifier")
    refused_with(HEADS, {"threshold": "certified"}, "threshold=certified", "my-heads", "certify")


def test_a_certificate_that_cannot_be_believed_sets_no_threshold() -> None:
    broken = replace(CERTIFIED, certified=None, certificate_fault="made by an older version")
    assert with_heads({}, broken).threshold == 0.9
    assert with_heads({"threshold": 0.5}, broken).threshold == 0.5
    asked = {"threshold": "certified"}
    refused_with(broken, asked, "threshold=certified", "my-heads", "older version")


def test_heads_count_by_what_they_are_not_by_where_they_lie() -> None:
    here = with_heads({}, HEADS).fingerprint_fields()
    assert here == with_heads({}, replace(HEADS, name="elsewhere")).fingerprint_fields()
    assert here != with_heads({}, replace(HEADS, fingerprint="def")).fingerprint_fields()
