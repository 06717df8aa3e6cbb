"""Skipped-state policies from outside: facts, refusals, and that they do what they say."""

from __future__ import annotations

from typing import Any

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.costs import HybridCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.skipped_states import SkippedFacts, registered
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.score import score
from dynamax_lm.settings import ExitSettings, parse_settings
from tests.builders import STACKS, random_model, uneven_requests

HEAD = """
from dynamax_lm import AttentionCosts, Mamba2Costs, SkippedFacts, SkippedState
"""
TWIN = (
    HEAD
    + """
class Ours(SkippedState):
    facts = SkippedFacts(
        layers=(AttentionCosts, Mamba2Costs), flops=lambda costs: costs.skipped("propagate")
    )

    def skip(self, layer, state, below, context):
        return layer.propagate(state, below, context)
"""
)
NOTHING = (
    HEAD
    + """
class Ours(SkippedState):
    facts = SkippedFacts(layers=(Mamba2Costs,), flops=lambda costs: 0, shorter=True)

    def skip(self, layer, state, below, context):
        pass
"""
)
COSTS = {
    "attention": AttentionCosts(
        n_layers=4, width=8, feedforward=16, query_heads=2, kv_heads=1, head_dim=4, vocabulary=10
    ),
    "mamba2": Mamba2Costs(
        n_layers=4, width=8, inner=16, heads=2, groups=1, state_size=4, kernel=3, vocabulary=10
    ),
}
KINDS = {"mistral": "attention", "mamba2": "mamba2"}


def settle(written: str, architecture: Any = "attention", **given: Any) -> ExitSettings:
    raw = parse_settings({"skipped_state": written, **given})
    return raw.resolve(n_layers=4, architecture=architecture)


def refused(written: str, *words: str, **given: Any) -> None:
    with pytest.raises(SettingError) as caught:
        settle(written, **given)
    line = str(caught.value)
    assert line.startswith("skipped_state=")
    assert len(line.splitlines()) == 1
    for word in words:
        assert word in line


def test_a_policy_of_a_file_is_known_by_its_digest_to_settings_and_fingerprint(named: Any) -> None:
    settings = settle(named(TWIN))
    name = settings.skipped_state
    assert name.startswith("mine.py:Ours@")
    described, fields = settings.describe(), settings.fingerprint_fields()
    assert described["skipped_state"] == fields["skipped_state"] == name
    assert settle(f"{named(TWIN)}@{name.partition('@')[2]}") == settings
    assert settle(named(TWIN + "# more")).skipped_state != name


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize(
    ("kind", "source", "known"),
    [
        ("mistral", TWIN, "propagate"),
        ("mamba2", TWIN, "propagate"),
        ("mamba2", NOTHING, "freeze"),
    ],
)
def test_a_policy_that_does_what_one_of_the_package_does_gives_its_answers_and_its_bill(
    named: Any, kind: str, source: str, known: str
) -> None:
    name = settle(named(source), KINDS[kind]).skipped_state
    stack, policy = STACKS[kind](random_model(kind, 5)), ExitPolicy((1, 3), "top_prob", 0.15)
    asked, scored = uneven_requests()
    options: Any = {"policy": policy, "reference": True}
    for run, requests in ((generate, asked), (score, scored)):
        call: Any = run
        ours = call(stack, requests, skipped_state=name, **options)
        assert ours == call(stack, requests, skipped_state=known, **options)
        assert len({used for answer in ours for used in answer.trace.layers_used}) > 1
    costs = COSTS[KINDS[kind]]
    bills = {
        state if isinstance(state, str) else "written": Ledger(
            costs, exit_layers=(1, 2), skipped_state=state
        ).answer(3, [1, 2, 4])
        for state in (known, name, written(name, costs))
    }
    assert len(bills) == 3
    assert len(set(bills.values())) == 1


def written(name: str, costs: Any) -> SkippedFacts:
    """The facts as a results file has them."""
    outside = registered(name)
    assert outside is not None
    return SkippedFacts.from_record(outside.facts.record(costs))


def test_a_record_that_was_damaged_is_refused(named: Any) -> None:
    outside = registered(settle(named(TWIN)).skipped_state)
    assert outside is not None
    good = outside.facts.record(COSTS["attention"])
    assert SkippedFacts.from_record(good).flops(None) == good["flops"] > 0
    for damage in ({"flops": -1}, {"flops": 1.5}, {"flops": True}, {"name": None}):
        with pytest.raises(ValueError, match="count"):
            SkippedFacts.from_record(good | damage)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("class Ours:\n    pass\n", "lacks facts"),
        (TWIN.replace("def skip", "def slip"), "lacks skip"),
        (TWIN.replace("below, context):", "context):"), "CLASS().skip(layer, state, below"),
        (TWIN.replace("layers=(", "name='mine', layers=("), "leave the name out"),
        (TWIN.replace("(AttentionCosts, Mamba2Costs)", "()"), "cost classes"),
        (TWIN.replace("(AttentionCosts, Mamba2Costs)", "('attention',)"), "cost classes"),
        (TWIN.replace("AttentionCosts, Mamba2Costs)", "Mamba2Costs,)"), "these are of attention"),
        (TWIN.replace('costs.skipped("propagate")', "-1"), "give a count"),
        (TWIN.replace('costs.skipped("propagate")', "costs.inner"), "flops fail"),
        (TWIN.replace("flops=", "shorter=True, flops="), "silent hole"),
        (TWIN + "\n    def __init__(self):\n        raise OSError('no')\n", "no"),
    ],
)
def test_a_class_that_is_no_policy_is_refused(named: Any, source: str, word: str) -> None:
    assert source != TWIN
    refused(named(source), word)


def test_other_refusals_name_the_fix(named: Any) -> None:
    refused("my_states:Ours", "FILE.py:CLASS", "propagate")
    refused("nowhere.py:Ours", "working directory")
    refused(named(TWIN), "leave it out", mode="lossless")


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("source", [NOTHING.replace("shorter=True", ""), TWIN])
def test_a_recurrent_layer_is_given_what_it_sees(named: Any, source: str) -> None:
    if source is TWIN:
        source = TWIN.replace("(AttentionCosts, Mamba2Costs)", "(Mamba2Costs,)")
        source = source.replace("flops=", "shorter=True, flops=")
    name = settle(named(source), "mamba2").skipped_state
    stack = STACKS["mamba2"](random_model("mamba2", 3))
    policy = ExitPolicy((1,), "top_prob", 0.0)
    with pytest.raises(ValueError, match=r"layer\.propagate"):
        score(stack, uneven_requests()[1], policy=policy, skipped_state=name)


@pytest.mark.usefixtures("no_gradients")
def test_a_layer_of_another_kind_is_neither_run_nor_billed_under_a_policy(named: Any) -> None:
    name = settle(named(NOTHING), "mamba2").skipped_state
    stack, policy = STACKS["mistral"](random_model("mistral", 3)), ExitPolicy((1,), "top_prob", 0.0)
    with pytest.raises(ValueError, match="attention has no skipped_state"):
        score(stack, uneven_requests()[1], policy=policy, skipped_state=name)
    costs = HybridCosts((COSTS["mamba2"], COSTS["attention"]))
    with pytest.raises(ValueError, match="attention has no skipped_state"):
        Ledger(costs, exit_layers=(1,), skipped_state=name)
