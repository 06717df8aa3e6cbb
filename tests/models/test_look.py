"""The argument ``look``: every form, every refusal, and where it is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.utils import simple_parse_args_string

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.looks import FULL, Look
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.settings import ExitSettings, HeadsFacts, parse_settings

COSTS = AttentionCosts(
    n_layers=8, width=64, feedforward=96, query_heads=4, kv_heads=2, head_dim=16, vocabulary=500
)
HEADS = HeadsFacts(
    name="my-heads",
    exit_layers=(4, 6),
    has_classifier=True,
    certified=0.85,
    certified_confidence="top_prob",
)


def settle(heads: HeadsFacts | None = None, **given: Any) -> ExitSettings:
    return parse_settings(given).resolve(n_layers=8, architecture=COSTS, heads=heads)


@pytest.mark.parametrize(
    ("text", "look"),
    [
        ("full", FULL),
        ("rank:64", Look(rank=64)),
        ("shortlist:500", Look(shortlist=500)),
        ("rank:8+shortlist:32", Look(8, 32)),
        ("shortlist:32+rank:8", Look(8, 32)),
        ("rank:8+refine:32", Look(8, refine=32)),
    ],
)
def test_looks_in_every_form(text: str, look: Look) -> None:
    for door in (key_val_to_dict, simple_parse_args_string):
        settings = settle(**door(f"confidence=margin,look={text}"))
        assert settings.look == look
        assert settings.confidence == "margin"
        assert settings.measure == ("margin" if look == FULL else f"margin|{look.name}")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"look": "rank"}, "rank:64"),
        ({"look": "rnk:64"}, "did you mean rank?"),
        ({"look": 64}, "give full"),
        ({"look": True}, "give full"),
        ({"look": "rank:0"}, "give full"),
        ({"look": "rank:65"}, "has rank 64 at most"),
        ({"look": "shortlist:501"}, "has 500 tokens"),
        ({"look": "rank:8+refine:501"}, "has 500 tokens"),
        ({"look": "refine:32"}, "rank:R+refine:M"),
        ({"look": "rank:8", "confidence": "saturation"}, "reads no logits"),
        ({"look": "rank:8", "confidence": "oracle"}, "reads no logits"),
        ({"look": "rank:8", "exit_rule": "fixed_depth", "exit_layers": 4}, "no confidence"),
        ({"look": "shortlist:8", "exit_layers": 4}, "rank:R+shortlist:8"),
        ({"look": "shortlist:8", "mode": "lossless"}, "rank:R+shortlist:8"),
    ],
)
def test_refusals_name_the_argument_and_the_fix(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        settle(**given)
    line = str(caught.value)
    assert line.startswith("look=")
    assert len(line.splitlines()) == 1
    assert words in line


def test_a_trained_classifier_does_not_look() -> None:
    with pytest.raises(SettingError, match=r"look=rank:8: confidence=head reads no logits"):
        settle(HEADS, look="rank:8")
    assert settle(HEADS, look="rank:8", confidence="top_prob").measure == "top_prob|rank:8"


def test_a_cheap_look_drafts_losslessly() -> None:
    settings = settle(mode="lossless", look="rank:8+shortlist:16")
    assert (settings.mode, len(settings.exit_layers)) == ("lossless", 1)


def test_a_look_counts_and_can_be_given_back() -> None:
    plain, cheap = settle(), settle(look="rank:8")
    assert "look" not in plain.describe()
    assert plain == settle(look="full")
    assert cheap.describe()["look"] == "rank:8"
    assert settle(**dict(cheap.describe())) == cheap
    assert plain.fingerprint_fields() != cheap.fingerprint_fields()
    other = settle(look="rank:9")
    assert other.fingerprint_fields() != cheap.fingerprint_fields()


def test_a_threshold_is_certified_for_one_look() -> None:
    assert settle(HEADS, confidence="top_prob").threshold == 0.85
    assert settle(HEADS, confidence="top_prob", look="rank:8").threshold == 0.9
    cheap = replace(HEADS, certified_confidence="top_prob|rank:8")
    assert settle(cheap, confidence="top_prob", look="rank:8").threshold == 0.85
    assert settle(cheap, confidence="top_prob").threshold == 0.9
