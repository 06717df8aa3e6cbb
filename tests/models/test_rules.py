"""Exit rules as settings take them: every form of every value, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.utils import simple_parse_args_string

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.thresholds import CalmDecay, FixedDepth, PerExit
from dynamax_lm.settings import ExitSettings, mend_split_lists, parse_settings

DOORS: list[Callable[[str], dict[str, Any]]] = [key_val_to_dict, simple_parse_args_string]
SOURCE = """
from dataclasses import dataclass
from dynamax_lm.core.thresholds import ThresholdRule

@dataclass(frozen=True)
class Ours(ThresholdRule):
    slope: float = 0.25

    def at(self, exit, step):
        return max(0.0, self.threshold - self.slope * exit)
"""


def settle(**given: Any) -> ExitSettings:
    raw = parse_settings(mend_split_lists(given))
    return raw.resolve(n_layers=32, architecture="attention")


def refused(*words: str, **given: Any) -> None:
    with pytest.raises(SettingError) as caught:
        settle(**given)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


@given(st.lists(st.integers(0, 100), min_size=2, max_size=5, unique=True))
def test_a_list_of_thresholds_in_every_form(percent: list[int]) -> None:
    thresholds = [number / 100 for number in percent]
    words = [f"{number:g}" for number in thresholds]
    exits = "+".join(str(layer) for layer in range(1, len(words) + 1))
    forms: list[Any] = [thresholds, tuple(thresholds), words, str(thresholds), "+".join(words)]
    for door in DOORS:
        texts = (f"[{','.join(words)}]", f"[{', '.join(words)}]", f"({','.join(words)})")
        for text in (*texts, "+".join(words)):
            arrived = mend_split_lists(door(f"confidence=margin,threshold={text},heads=none"))
            assert set(arrived) == {"confidence", "threshold", "heads"}
            forms.append(arrived["threshold"])
    for form in forms:
        settings = settle(threshold=form, exit_layers=exits)
        assert settings.threshold == tuple(thresholds)
        assert settings.describe()["threshold"] == thresholds
        assert settings.rule == PerExit(0.0, tuple(thresholds))


def test_two_lists_through_the_string_interface_stay_apart() -> None:
    arrived = simple_parse_args_string("exit_layers=[8,16,24],threshold=[0.9,1,0]")
    settings = settle(**arrived)
    assert settings.exit_layers == (8, 16, 24)
    assert settings.threshold == (0.9, 1.0, 0.0)


def test_a_plain_threshold_is_described_as_it_always_was() -> None:
    plain, named = settle(threshold=0.7), settle(threshold=0.7, exit_rule="threshold")
    assert plain == named
    assert plain.rule is None
    assert not {"exit_rule", "exit_rule_args"} & set(plain.describe())
    assert not {"exit_rule", "exit_rule_args"} & set(plain.fingerprint_fields())


@pytest.mark.parametrize(
    "arguments",
    [
        "temperature:2+length:64",
        {"temperature": 2, "length": 64},
        {"length": "64", "temperature": 2.0},
    ],
)
def test_calms_rule_and_its_arguments(arguments: Any) -> None:
    settings = settle(exit_rule="calm_decay", exit_rule_args=arguments, threshold=0.8)
    assert settings.rule == CalmDecay(0.8, temperature=2.0, length=64.0)
    assert settings.describe()["exit_rule"] == "calm_decay"
    assert settings.describe()["exit_rule_args"] == {"length": 64.0, "temperature": 2.0}
    default = settle(exit_rule="calm_decay")
    assert default.rule == CalmDecay(0.9)
    assert default.fingerprint_fields() != settle().fingerprint_fields()


def test_a_fixed_depth_needs_one_exit_and_nothing_else() -> None:
    settings = settle(exit_rule="fixed_depth", exit_layers=8)
    assert settings.rule == FixedDepth(0.0)
    assert (settings.confidence, settings.threshold) == ("none", 0.0)
    refused("exit_rule=fixed_depth", "it takes 1", exit_rule="fixed_depth", exit_layers="8+16")
    refused("evaluates no confidence", exit_rule="fixed_depth", exit_layers=8, confidence="margin")
    refused("takes none", exit_rule="fixed_depth", exit_layers=8, threshold=0.5)


def test_a_rule_of_a_file_is_known_by_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "rules.py"
    file.write_text(SOURCE)
    settings = settle(exit_rule=f"{file}:Ours", exit_rule_args="slope:0.1", threshold=0.8)
    assert settings.exit_rule.startswith("rules.py:Ours@")
    assert settings.fingerprint_fields()["exit_rule"] == settings.exit_rule
    rule = settings.rule
    assert rule is not None
    assert rule.at(2, 5) == pytest.approx(0.6)
    refused("slant is no argument", exit_rule=f"{file}:Ours", exit_rule_args="slant:1")
    refused("no class Mine", exit_rule=f"{file}:Mine")
    file.write_text(SOURCE.replace("self.threshold - self.slope", "2.0 + self.slope"))
    refused("not in [0, 1]", exit_rule=f"{file}:Ours")
    file.write_text(SOURCE.replace("self.threshold - self.slope", "[][exit] + self.slope"))
    refused("exit 0 raises IndexError", exit_rule=f"{file}:Ours")
    file.write_text(SOURCE.replace("def at", "def other"))
    refused("lacks at(self, exit, step)", exit_rule=f"{file}:Ours")
    file.write_text("class Ours:\n    pass\n")
    refused("ThresholdRule", exit_rule=f"{file}:Ours")


def test_other_refusals() -> None:
    refused("2 for 3 exits", threshold="0.9+0.8", exit_layers="8+16+24")
    refused("finite number", threshold="0,1")
    for wrong in ("[0.9,1.2]", [0.9, "x"], [], "0.9+", [True, 0.5], ["nan", 0.1]):
        refused("threshold=", "[0.9,0.8,0.7]", threshold=wrong)
    refused("did you mean calm_decay?", "FILE.py:CLASS", exit_rule="calm_decays")
    refused("takes one number", exit_rule="calm_decay", threshold="0.9+0.8+0.7+0.6")
    refused("heat is no argument", exit_rule="calm_decay", exit_rule_args="heat:1")
    refused("length=0 is above 0", exit_rule="calm_decay", exit_rule_args="length:0")
    refused("exit_rule=threshold takes none", exit_rule_args="length:3")
    refused("not of exit_rule=calm_decay", exit_rule="calm_decay", threshold="certified")
    for wrong_arguments in ("length", "length:x", "length:1+length:2", 5, {"length": None}):
        refused("exit_rule_args=", exit_rule="calm_decay", exit_rule_args=wrong_arguments)
