"""Measures from outside: their facts, their refusals, and what is checked as they run."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch

from dynamax_lm.common import extensions
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.extensions import installed
from dynamax_lm.core.confidence import make_confidence
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.measures import BUILT_IN, MeasureFacts, class_of, facts_of
from dynamax_lm.settings import ExitSettings, find_measure, parse_settings
from tests.builders import small_costs
from tests.core.test_confidence import view

HEAD = """
from dynamax_lm.core.confidence import Measure
from dynamax_lm.core.measures import MeasureFacts
"""
NORM = (
    HEAD
    + """
class Ours(Measure):
    facts = MeasureFacts(reads="hidden", flops=lambda check: 2 * check.width, least_exits=2)

    def ask(self, view):
        return view.hidden.norm(dim=-1).clamp(0, 1)
"""
)
COSTS = small_costs(vocabulary=10)


def settle(confidence: str, **given: Any) -> ExitSettings:
    raw = parse_settings({"confidence": confidence, **given})
    return raw.resolve(n_layers=4, architecture="attention")


def refused(confidence: str, *words: str, **given: Any) -> None:
    with pytest.raises(SettingError) as caught:
        settle(confidence, **given)
    line = str(caught.value)
    assert line.startswith("confidence=")
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


def test_every_measure_of_the_package_has_facts_and_a_class_that_refer_to_each_other() -> None:
    for name, facts in BUILT_IN.items():
        assert facts.name == name
        assert class_of(name).facts is facts is facts_of(name)
        assert not facts.outside


def test_a_measure_of_a_file_is_known_by_its_digest_to_settings_and_fingerprint(named: Any) -> None:
    settings = settle(named(NORM), exit_layers="1+2")
    name = settings.confidence
    assert name.startswith("mine.py:Ours@")
    assert settings.describe()["confidence"] == settings.fingerprint_fields()["confidence"] == name
    assert settle(f"{named(NORM)}@{name.partition('@')[2]}", exit_layers="1+2") == settings
    assert settle(named(NORM + "# more"), exit_layers="1+2").confidence != name


def test_the_ledger_bills_what_the_facts_say(named: Any) -> None:
    name = settle(named(NORM), exit_layers="1+2").confidence
    ours = Ledger(COSTS, exit_layers=(1, 2), confidence=name)
    free = Ledger(COSTS, exit_layers=(1, 2), confidence="oracle")
    for depth, asked in ((1, 1), (2, 2), (4, 2)):
        extra = ours.answer(3, [depth]).checks - free.answer(3, [depth]).checks
        assert extra == asked * 2 * COSTS.width
    facts = facts_of(name)
    again = MeasureFacts.from_record(facts.record(2, COSTS.width, COSTS.vocabulary))
    written = Ledger(COSTS, exit_layers=(1, 2), confidence=again)
    assert written.answer(3, [1, 2, 4]) == ours.answer(3, [1, 2, 4])


def test_a_record_that_was_damaged_is_refused() -> None:
    good = facts_of("patience").record(2, 8, 10)
    assert MeasureFacts.from_record(good).steps(2) == 1
    for damage in ({"flops": [1.5, 0]}, {"flops": None}, {"reads": "minds"}, {"steps": -1}):
        with pytest.raises(ValueError, match=r"counts|reads"):
            MeasureFacts.from_record(good | damage)
    short = MeasureFacts.from_record(good | {"flops": [0]})
    with pytest.raises(ValueError, match="1 exits"):
        Ledger(COSTS, exit_layers=(1, 2), confidence=short)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("class Ours:\n    pass\n", "lacks facts"),
        (HEAD + "class Ours:\n    facts = MeasureFacts(reads='logits')\n", "lacks ask"),
        (NORM.replace('reads="hidden"', 'reads="minds"'), "'minds' is none of logits"),
        (NORM.replace('reads="hidden"', 'reads="heads"'), "give reads='logits'"),
        (NORM.replace("reads=", "name='margin', reads="), "margin of a built-in measure"),
        (NORM.replace("2 * check.width", "-1"), "give a count"),
        (NORM.replace("check.width", "check.widht"), "flops raise AttributeError"),
        (NORM + "\n    def __init__(self):\n        pass\n", "CLASS(tokens=N, exits=E)"),
    ],
)
def test_a_class_that_is_no_measure_is_refused(named: Any, source: str, word: str) -> None:
    refused(named(source), word, exit_layers="1+2")


def test_other_refusals_name_the_fix(named: Any) -> None:
    refused(named(NORM), "at least two exits", exit_layers="1")
    refused("my_measures:Ours", "FILE.py:CLASS", "top_prob")
    refused("nowhere.py:Ours", "working directory")


def test_a_built_in_name_is_never_shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = EntryPoint("margin", "some:Ours", "dynamax_lm.confidence")
    monkeypatch.setattr(extensions, "entry_points", lambda group: [taken])
    installed.cache_clear()
    refused("margin", "rename or remove")
    assert settle("top_prob").confidence == "top_prob"
    monkeypatch.undo()
    installed.cache_clear()


def test_what_a_measure_says_is_checked_as_it_runs(named: Any) -> None:
    seen = view(torch.rand(3, 4))
    wrong = {
        "view.hidden.norm(dim=-1).clamp(0, 1)": None,
        "view.logits.amax(-1)": "reads='logits'",
        "view.emission.float()": "reads='logits'",
        "view.hidden.clamp(0, 1)": r"\(3,\)",
        "view.hidden.sum(-1) + 2": r"in \[0, 1\]",
        "view.hidden.sum(-1) * float('nan')": r"in \[0, 1\]",
        "0.5": "float for 3",
    }
    for said, match in wrong.items():
        source = NORM.replace("view.hidden.norm(dim=-1).clamp(0, 1)", said)
        measure = make_confidence(find_measure(named(source)).name, tokens=3, exits=2)
        if match is None:
            assert measure.ask(seen).shape == (3,)
            continue
        with pytest.raises(ValueError, match=match):
            measure.ask(seen)
