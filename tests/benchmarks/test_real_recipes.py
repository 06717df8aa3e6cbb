"""Other projects' ways to train an exit: equal tokens, and the starts that they claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.criteria.collect import collect
from benchmarks.criteria.fit import Recipe, warm_cosine
from benchmarks.criteria.states import States
from benchmarks.criteria.translators import fit_translators
from benchmarks.real.quality import qualities
from benchmarks.real.recipes import Method, methods, quality, train
from benchmarks.real.vocabulary import ShortList
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.heads import ExitHeads
from tests.builders import STACKS, VOCAB, random_model
from tests.heads.builders import config_of_four_layers

EXITS = (1, 2, 3)
OURS, LENS, CROSSED, ADAM, DSSD, OWN = range(6)


class Setting:
    """A random decoder's answers, its whole vocabulary as short list, and fitted translators."""

    def __init__(self, folder: Path) -> None:
        model = random_model("mistral", 4, seed=3).requires_grad_(False)
        self.stack: Any = STACKS["mistral"](model)
        generator = torch.Generator().manual_seed(1)
        requests = [
            GenerateRequest(
                tuple(torch.randint(2, VOCAB, (4,), generator=generator).tolist()),
                12,
                lambda _: False,
            )
            for _ in range(8)
        ]
        self.states: States = collect(
            *(self.stack, requests, ["one"] * 8, EXITS, folder),
            text_of=lambda _, tokens: len(tokens),
            batch_size=8,
            dtype="float32",
        )
        weight = model.get_output_embeddings().weight.detach()
        self.short = ShortList(np.arange(VOCAB), weight, self.stack.normed)
        config = config_of_four_layers(EXITS, translator="affine")
        start = Recipe(translator_steps=0)
        self.fitted = fit_translators(config, self.states, self.stack.unembed, start)
        self.tokens = list(range(len(self.states.token)))
        self.methods: list[Method] = list(methods(self.short, self.fitted))

    def measured(self, number: int, steps: int) -> list[tuple[float, float]]:
        """Agreement and divergence of every exit after ``steps`` of a method."""
        method = self.methods[number]
        modules = train(method, self.states, self.short, steps, 48)
        found = quality(method, modules, self.states, self.short, self.tokens)
        return [(one.agreement, one.divergence) for one in found]

    def untrained(self, heads: ExitHeads | None) -> list[tuple[float, float]]:
        """The same of translators, by the study's own code."""
        found = qualities(self.states, self.tokens, self.stack.unembed, heads)
        return [(one.agreement, one.divergence) for one in found]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("states"))


def test_each_start_is_the_one_that_its_name_says(setting: Setting) -> None:
    bare, fitted = setting.untrained(None), setting.untrained(setting.fitted)
    for number, wanted in ((OURS, fitted), (CROSSED, fitted), (LENS, bare), (ADAM, bare)):
        assert setting.measured(number, 0) == [pytest.approx(one, abs=1e-5) for one in wanted]
    assert setting.measured(OWN, 0) == [pytest.approx(one, abs=1e-5) for one in bare]
    assert setting.measured(DSSD, 0) != setting.measured(OWN, 0)


def test_every_method_comes_nearer_to_full_depth(setting: Setting) -> None:
    for number in range(len(setting.methods)):
        before, after = setting.measured(number, 0), setting.measured(number, 40)
        assert sum(one[1] for one in after) < sum(one[1] for one in before), number


def test_every_method_sees_the_same_tokens_in_the_same_order(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[list[int]]] = []

    class Watched(States):
        def at(self, number: int, part: Any) -> Tensor:
            if number == len(self.exits):
                seen[-1].append(list(part))
            return super().at(number, part)

    states = Watched(
        **{name: getattr(setting.states, name) for name in States.__dataclass_fields__}
    )
    for method in setting.methods:
        seen.append([])
        train(method, states, setting.short, 3, 8)
    assert len(seen[0]) == 3
    assert all(one == seen[0] for one in seen)


def test_a_token_that_the_list_lacks_is_a_disagreement(setting: Setting) -> None:
    method = setting.methods[OURS]
    modules = train(method, setting.states, setting.short, 0, 8)
    moved = replace(setting.states, token=setting.states.token + VOCAB)
    found = quality(method, modules, moved, setting.short, setting.tokens)
    assert [one.agreement for one in found] == [0.0] * len(EXITS)


def test_rates_are_those_of_their_sources(setting: Setting) -> None:
    """Ours begins low; the lens's falls along a line, DSSD's along a cosine, both from the top."""
    steps = 100
    rates = [[one.rate(step, steps) for step in range(steps)] for one in setting.methods]
    assert rates[OURS] == rates[ADAM] == [warm_cosine(step, steps) for step in range(steps)]
    assert rates[OURS][0] == pytest.approx(0.2)
    assert rates[LENS] == rates[CROSSED] == pytest.approx([1 - s / steps for s in range(steps)])
    assert rates[DSSD] == rates[OWN]
    assert (rates[DSSD][0], rates[DSSD][steps // 2]) == (1.0, pytest.approx(0.5))
    assert all(0 < one <= 1 for row in rates for one in row)
