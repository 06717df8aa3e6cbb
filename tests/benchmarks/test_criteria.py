"""The comparison's numbers against plain loops, and its honesty about thresholds."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.criteria import report as pages
from benchmarks.criteria.accounts import (
    CostTable,
    Grid,
    PerDocument,
    static_depths,
    twin,
    twin_agreement,
)
from benchmarks.criteria.asking import Fixed, Trained, cached_exits, read_exits
from benchmarks.criteria.attribution import Trial, engine_agreement
from benchmarks.criteria.choice import Weights, choose, cross_fit, folds
from benchmarks.criteria.classifiers import fit_classifier
from benchmarks.criteria.collect import collect
from benchmarks.criteria.fit import Recipe
from benchmarks.criteria.kinds import KINDS, Kind
from benchmarks.criteria.states import States
from benchmarks.criteria.study import compare, thresholds
from benchmarks.criteria.translators import fit_translators
from dynamax_lm.core.ledger import HeadCosts, Ledger
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.heads import ExitHeads, HeadsConfig
from tests.builders import STACKS, VOCAB, random_model, whole_forward
from tests.heads.builders import config_of_four_layers

EXITS = (1, 2, 3)
COSTS: dict[str, Any] = {"mistral": AttentionCosts, "mamba2": Mamba2Costs}
NEAR = 1e-4


class Backbone:
    """A random decoder with the states of its own answers."""

    def __init__(self, kind: str, folder: Path, longest: int = 9) -> None:
        self.model = random_model(kind, 4, seed=3).requires_grad_(False)
        self.stack: Any = STACKS[kind](self.model)
        self.costs = COSTS[kind].from_config(self.model.config)
        generator = torch.Generator().manual_seed(1)
        lengths = [1, 5, 3, 8, 2, 6, 4, 7, 5, 3]
        requests = [
            GenerateRequest(
                tuple(torch.randint(2, VOCAB, (length,), generator=generator).tolist()),
                max_new=1 + (3 * length) % longest,
                stops=lambda answer: answer[-1] == 7,
            )
            for length in lengths
        ]
        self.states: States = collect(
            self.stack,
            requests,
            ["a", "b"] * 5,
            EXITS,
            folder,
            text_of=lambda _, tokens: len(tokens),
            batch_size=4,
            dtype="float32",
        )

    def config(self, classifier: str, width: int) -> HeadsConfig:
        inner = 8 if classifier == "ffn" else 0
        return config_of_four_layers(
            EXITS, classifier=classifier, classifier_width=width, ffn_width=inner
        )


@pytest.fixture(params=["mistral", "mamba2"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    return Backbone(request.param, tmp_path / "states")


def noisy_heads(config: HeadsConfig, seed: int = 5) -> ExitHeads:
    torch.manual_seed(seed)
    heads = ExitHeads(config).eval()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return heads


@torch.no_grad()
def test_states_and_exits_are_those_of_whole_forward_passes(backbone: Backbone) -> None:
    states, model = backbone.states, backbone.model
    heads = noisy_heads(backbone.config("none", 16))
    exits = read_exits(states, backbone.stack.unembed, heads, ("top_prob",))
    confidence = exits.confidences["top_prob"]
    assert set(states.tasks) == {"a", "b"}
    for place in range(len(states.token)):
        document = states.document[place]
        first = int(np.flatnonzero(states.document == document)[0])
        sequence = [*states.prompts[document], *states.token[first:place]]
        logits, after = whole_forward(model, sequence)
        assert states.position[place] == len(sequence) - 1
        assert states.token[place] == int(logits.argmax())
        for number, layer in enumerate(EXITS):
            hidden = after[layer - 1]
            torch.testing.assert_close(states.at(number, [place]), hidden, atol=1e-4, rtol=1e-3)
            norm = getattr(model.base_model, "norm", None) or model.base_model.norm_f
            logits = model.lm_head(norm(heads.translate(layer, hidden)))[0]
            top = logits.topk(2).values
            if top[0] - top[1] > NEAR:
                assert exits.tokens[number, place] == int(logits.argmax())
            assert abs(confidence[number, place] - float(logits.softmax(-1).max())) < 1e-3
    assert np.array_equal(exits.right, exits.tokens == states.token)


def test_a_look_that_sees_everything_says_what_the_projection_says(backbone: Backbone) -> None:
    names = ("top_prob", f"top_prob|rank:{backbone.stack.costs.width}")
    project = backbone.stack.unembed
    found = read_exits(backbone.states, project, None, names, backbone.stack).confidences
    np.testing.assert_allclose(found[names[1]], found[names[0]], atol=1e-5)
    with pytest.raises(ValueError, match="needs the decoder"):
        read_exits(backbone.states, project, None, names[1:])


def test_kept_exits_are_made_again_where_a_measure_is_missing(
    backbone: Backbone, tmp_path: Path
) -> None:
    given = (tmp_path / "exits.npz", backbone.states, backbone.stack.unembed, None)
    first = cached_exits(*given, ("top_prob",))
    both = cached_exits(*given, ("top_prob", "margin"))
    assert set(first.confidences) == {"top_prob"}
    assert set(both.confidences) == {"top_prob", "margin"}
    again = cached_exits(tmp_path / "exits.npz", backbone.states, None, None, ("margin",))  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.confidences["margin"], both.confidences["margin"])


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.1, 0.5, 1.0])
def test_a_measure_leaves_where_a_loop_over_tokens_leaves(
    backbone: Backbone, threshold: float
) -> None:
    exits = read_exits(backbone.states, backbone.stack.unembed, None, ("top_prob", "patience"))
    for confidence in exits.confidences.values():
        leave = Fixed(confidence).leave(threshold)
        for place, column in enumerate(confidence.T):
            asked = [number for number, sure in enumerate(column) if sure >= np.float32(threshold)]
            expected = min(asked, default=len(EXITS)) if threshold < 1 else len(EXITS)
            assert leave[place] == (0 if threshold == 0 else expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.folder)
def test_a_head_leaves_where_single_steps_leave(backbone: Backbone, kind: Any) -> None:
    states = backbone.states
    heads = noisy_heads(backbone.config(kind.classifier, 16 if kind.width == "full" else 8))
    if kind.classifier == "linear":
        heads = noisy_heads(backbone.config("linear", 16))
    rule = Trained(heads, states).rule()
    excluded = 0
    for threshold in (0.3, 0.5, 0.7):
        leave = rule.leave(threshold)
        for document in range(len(states.tasks)):
            memory = heads.new_state(1)
            for place in np.flatnonzero(states.document == document):
                expected, near = _one_step(heads, states, int(place), threshold, memory)
                if near:
                    excluded += 1
                    break  # what a memory holds from here on may differ too
                assert leave[place] == expected
    assert excluded <= 2


def _one_step(
    heads: ExitHeads, states: States, place: int, threshold: float, memory: Any
) -> tuple[int, bool]:
    """Where a single token leaves, and whether it was a close call."""
    heads.begin(memory, 1)
    one = torch.zeros(1, dtype=torch.long)
    near = False
    for number, layer in enumerate(EXITS):
        hidden = states.at(number, [place])
        sure = float(heads.confidence(layer, hidden, rows=one, tokens=one, state=memory))
        near = near or abs(sure - threshold) < NEAR
        if sure >= threshold:
            return number, near
    return len(EXITS), near


def test_a_document_costs_what_the_ledger_bills(backbone: Backbone) -> None:
    states = backbone.states
    extras = [HeadCosts(11 * layer, 7) for layer in EXITS]
    right = np.random.default_rng(0).random((3, len(states.token))) < 0.5
    leave = np.random.default_rng(1).integers(0, 4, len(states.token))
    for confidence in ("top_prob", "head", "saturation", "oracle"):
        cost_table = CostTable.of(states, backbone.costs, confidence, "propagate", extras)
        account = cost_table.account(leave, right)
        ledger = Ledger(
            backbone.costs, exit_layers=EXITS, confidence=confidence, exit_extras=extras
        )
        for document in range(len(states.tasks)):
            mine = np.flatnonzero(states.document == document)
            depths = [states.layers[number] for number in leave[mine]]
            bill = ledger.answer(len(states.prompts[document]) - 1, depths)
            agrees = [leave[place] == 3 or bool(right[leave[place], place]) for place in mine]
            assert account.saved[document] == pytest.approx(bill.flops_saved, abs=1e-12)
            assert account.layers[document] == pytest.approx(np.mean(depths))
            assert account.agreement[document] == pytest.approx(np.mean(agrees))


@pytest.mark.parametrize("cut", [1, 3])
def test_a_fixed_depth_costs_what_a_model_of_so_many_layers_costs(
    backbone: Backbone, cut: int
) -> None:
    states = backbone.states
    right = np.ones((3, len(states.token)), dtype=bool)
    fixed = CostTable.of_fixed_depths(states, backbone.costs, [7, 7, 7])
    shorter = dataclasses.replace(backbone.costs, n_layers=cut)
    saved = static_depths(fixed, right).saved
    for document in range(len(states.tasks)):
        tokens = int((states.document == document).sum())
        before = len(states.prompts[document]) - 1
        spent = Ledger(shorter).answer(before, [cut] * tokens).spent + 7 * tokens
        full = Ledger(backbone.costs).answer(before, [4] * tokens).spent
        assert saved[cut - 1, document] == pytest.approx(1 - spent / full, abs=1e-12)
    assert np.abs(saved[-1]).max() < 1e-12


def test_only_counted_tokens_make_a_document_s_numbers(backbone: Backbone) -> None:
    states = dataclasses.replace(backbone.states, text=np.ones(10, dtype=np.int64))
    first = np.flatnonzero(np.diff(states.document, prepend=-1))
    assert np.array_equal(np.flatnonzero(states.of_text), first)
    right = np.random.default_rng(0).random((3, len(states.token))) < 0.5
    leave = np.random.default_rng(1).integers(0, 3, len(states.token))
    cost_table = CostTable.of(states, backbone.costs, "oracle", "propagate", [], states.of_text)
    account = cost_table.account(leave, right)
    assert np.array_equal(account.agreement, right[leave[first], first])
    assert np.array_equal(account.layers, np.array(EXITS)[leave[first]])
    some = [1, 4, 5]
    part = states.of(some)
    mine = np.isin(states.document, some)
    cost_table = CostTable.of(part, backbone.costs, "oracle", "propagate", [], part.of_text)
    for ours, theirs in zip(cost_table.account(leave[mine], right[:, mine]), account, strict=True):
        np.testing.assert_allclose(ours, theirs[some])
    assert torch.equal(part.at(2), states.at(2, mine))
    assert part.prompts == tuple(states.prompts[number] for number in some)


def test_kinds_are_compared_over_all_their_seeds(backbone: Backbone) -> None:
    """The difference of means over seeds is the mean over all pairs of one seed each."""
    states = backbone.states
    exits = read_exits(states, backbone.stack.unembed, None, ())
    heads = {
        Kind(name, "full").seeded(seed): noisy_heads(backbone.config(name, 16), 5 + seed)
        for name, seed in product(("linear", "ffn"), range(2))
    }
    given = (states, exits, None, heads, backbone.costs, "propagate", thresholds(1.0))
    column = compare("none", *given)
    weights = Weights.draw(folds(states.tasks, 0), 50, 0)
    (found,) = column.pairs_of_kinds(["ffn, full"], weights)
    single = {(one.first, one.second): one.difference for one in column.pairs(list(heads), weights)}
    wanted = [
        -single[f"linear, seed {theirs}", f"ffn, full, seed {ours}"]
        for ours, theirs in product(range(2), repeat=2)
    ]
    assert (found.first, found.second) == ("ffn, full", "linear")
    assert found.difference == pytest.approx(np.mean(wanted), abs=1e-12)
    assert found.difference_interval[0] <= found.difference <= found.difference_interval[1]


def test_the_twin_costs_what_the_dynamic_rule_costs(backbone: Backbone) -> None:
    states = backbone.states
    exits = read_exits(states, backbone.stack.unembed, None, ())
    statics = static_depths(CostTable.of_fixed_depths(states, backbone.costs, [0] * 3), exits.right)
    saved, agreement = statics.saved.mean(1), statics.agreement.mean(1)
    cost_table = CostTable.of(states, backbone.costs, "oracle", "propagate", [])
    for seed in range(5):
        leave = np.random.default_rng(seed).integers(0, 4, len(states.token))
        dynamic = cost_table.account(leave, exits.right).means[0]
        found = twin(dynamic, saved, agreement)
        assert found is not None
        mixed = (1 - found.share) * saved[found.shallow] + found.share * saved[found.deep]
        assert mixed == pytest.approx(dynamic, abs=1e-12)
        best = max(
            (1 - share) * agreement[i] + share * agreement[j]
            for i in range(4)
            for j in range(i + 1, 4)
            if saved[j] <= dynamic <= saved[i]
            for share in [(saved[i] - dynamic) / (saved[i] - saved[j])]
        )
        assert found.agreement == pytest.approx(best, abs=1e-12)
        drawn = twin_agreement(np.array([dynamic, -0.1]), saved[None], agreement[None])
        assert drawn == pytest.approx([best, 1.0])
    assert twin(-0.1, saved, agreement) is None


def random_grid(seed: int, documents: int) -> Grid:
    """Agreement rises with the threshold, the saving falls; the last never leaves."""
    generator = np.random.default_rng(seed)
    thresholds = np.array([0.2, 0.5, 0.8, 1.0])
    agreement = (thresholds[:, None] + generator.normal(0, 0.2, (4, documents))).clip(0, 1)
    saved = 1 - thresholds[:, None] - generator.random((4, documents)) / 4
    agreement[-1], saved[-1] = 1.0, -0.1
    return Grid(thresholds, PerDocument(saved, agreement, agreement))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), target=st.sampled_from([0.5, 0.8, 0.95]))
def test_no_document_has_a_part_in_the_threshold_that_judges_it(seed: int, target: float) -> None:
    tasks = ["a"] * 11 + ["b"] * 6
    fold = folds(tasks, seed)
    assert abs(int((fold == 0).sum()) - int((fold == 1).sum())) <= 2
    grid = random_grid(seed, 17)
    weights = Weights.draw(fold, 20, seed)
    judged = cross_fit(grid, weights, target)
    for number in (0, 1):
        mine = fold == number
        changed = random_grid(seed + 1, 17).numbers
        other = PerDocument(
            *(np.where(mine, a, b) for a, b in zip(changed, grid.numbers, strict=True))
        )
        # whatever its own numbers are, the fold is judged at the same threshold
        again = cross_fit(Grid(grid.thresholds, other), weights, target)
        assert again.thresholds[number] == judged.thresholds[number]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), target=st.sampled_from([0.5, 0.8, 0.95]))
def test_every_draw_is_what_a_loop_over_its_documents_gives(seed: int, target: float) -> None:
    grid = random_grid(seed, 12)
    weights = Weights.draw(folds(["a"] * 12, seed), 5, seed)
    judged = cross_fit(grid, weights, target)
    for row, counts in enumerate(weights.counts.astype(int)):
        total = 0.0
        for number in (0, 1):
            mine, other = (
                grid.numbers.of(np.repeat(np.flatnonzero(members), counts[members]))
                for members in (weights.fold == number, weights.fold != number)
            )
            saved, agreement = other.saved.mean(1), other.agreement.mean(1)
            places = [(at, 0.0) for at in range(4)]  # numbers are linear between two thresholds
            for at in range(3):
                low, high = agreement[at], agreement[at + 1]
                if (low < target) != (high < target):
                    places.append((at, (target - low) / (high - low)))
            best, place = -np.inf, (0, 0.0)
            for at, share in places:
                up = min(at + 1, 3)
                gain = (1 - share) * saved[at] + share * saved[up]
                if (1 - share) * agreement[at] + share * agreement[up] >= target - 1e-9:
                    best, place = max((best, place), (gain, (at, share)))
            at, share = place
            own = mine.saved.mean(1)
            total += ((1 - share) * own[at] + share * own[min(at + 1, 3)]) / 2
        assert judged.saved[row] == pytest.approx(total, abs=1e-9)


def test_a_target_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="put 1 into the grid"):
        choose(np.zeros(3), np.full(3, 0.5), 0.9)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_the_engine_agrees_with_exact_state_where_no_state_was_skipped(
    kind: str, tmp_path: Path
) -> None:
    backbone = Backbone(kind, tmp_path / "states", longest=1)  # answers of one token
    states = backbone.states
    heads = noisy_heads(backbone.config("mamba", 8))
    exits = read_exits(states, backbone.stack.unembed, heads, ("top_prob",))
    leaves = [
        Fixed(exits.confidences["top_prob"]).leave(0.1),
        Trained(heads, states).leave(0.5),
    ]
    trials = [
        Trial("a", "top_prob", EXITS, heads, (0.1, 0.1), "propagate"),
        Trial("b", "head", EXITS, heads, (0.5, 0.5), "propagate"),
        Trial("c", "head", EXITS, heads, (1.0, 1.0), "propagate"),
    ]
    documents = list(range(len(states.tasks)))
    found = engine_agreement(
        backbone.stack, states, trials, folds(states.tasks, 0), documents, batch_size=4
    )
    cost_table = CostTable.of(states, backbone.costs, "oracle", "propagate", [])
    for one, leave in zip(found, leaves, strict=False):
        assert np.array_equal(one, cost_table.account(leave, exits.right).agreement)
        assert one.mean() < 1
    assert np.array_equal(found[2], np.ones(len(documents)))


def test_translators_come_nearer_and_a_classifier_learns(backbone: Backbone) -> None:
    states = backbone.states
    recipe = Recipe(steps=40, documents=10, lr=1e-2, translator_steps=30, translator_tokens=64)
    bank = fit_translators(backbone.config("none", 16), states, backbone.stack.unembed, recipe)
    before = read_exits(states, backbone.stack.unembed, None, ())
    after = read_exits(states, backbone.stack.unembed, bank, ())
    assert after.right.mean() > before.right.mean()
    heads = fit_classifier(backbone.config("mamba", 8), bank, states, after, recipe)
    confidence = Trained(heads, states).everywhere()
    assert confidence[after.right].mean() > confidence[~after.right].mean()
    for layer in EXITS:
        ours, theirs = (one.translate(layer, states.at(0)) for one in (heads, bank))
        assert torch.equal(ours, theirs)


def test_the_legend_names_lines_inside_the_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def points(agreement: float) -> list[dict[str, float]]:
        return [{"threshold": t, "saved": t / 4, "agreement": agreement} for t in (0.2, 0.8)]

    seen: list[Any] = []
    monkeypatch.setattr(pages, "save_figure", lambda figure, *rest, **more: seen.append(figure))
    columns = list(pages._TITLES)[:2]
    curves = {"top_prob": points(0.95), "margin": points(0.2)}
    results = {
        "columns": columns,
        "facts": {"title": "a study"},
        "lines": [{"translators": one, "rule": "oracle", "saved": 0.4} for one in columns],
        "curves": dict.fromkeys(columns, curves),
        "statics": dict.fromkeys(columns, points(0.9)),
    }
    pages.draw(results, tmp_path / "picture.png")
    (figure,) = seen
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == ["fixed depths", "oracle", "top_prob"]
    assert len(figure.axes) == len(columns)
