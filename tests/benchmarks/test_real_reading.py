"""Labels of the most likely tokens, and what a classifier reads besides the hidden state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.criteria.asking import Exits, read_exits
from benchmarks.criteria.states import States
from benchmarks.real.labels import among_most_likely
from benchmarks.real.reading import READINGS, confidences, read, reading_flops, some_documents
from dynamax_lm.core.looks import read_look
from dynamax_lm.heads import ExitHeads, HeadsConfig

WIDTH, VOCAB, EXITS, LENGTHS = 6, 9, (1, 2, 3), (4, 1, 5, 3)


@pytest.fixture(scope="module")
def heads() -> ExitHeads:
    torch.manual_seed(0)
    config = HeadsConfig(
        backbone="random",
        architecture="attention",
        n_layers=4,
        width=WIDTH,
        vocabulary=VOCAB,
        fingerprint="",
        exit_layers=EXITS,
        classifier="linear",
        classifier_width=WIDTH,
        translator="affine",
    )
    made = ExitHeads(config)
    with torch.no_grad():
        for one in made.parameters():
            one.normal_(0, 0.3)
    return made.eval()


WEIGHT = torch.from_numpy(np.random.default_rng(1).normal(size=(VOCAB, WIDTH))).float()


def unembed(hidden: torch.Tensor) -> torch.Tensor:
    return hidden @ WEIGHT.T


@pytest.fixture(scope="module")
def states() -> States:
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(len(EXITS) + 1, sum(LENGTHS), WIDTH)).astype(np.float32)
    return States(
        layers=(*EXITS, 4),
        hidden=hidden,
        document=np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        position=np.arange(sum(LENGTHS)),
        token=unembed(torch.from_numpy(hidden[-1])).argmax(-1).numpy(),
        tasks=("a",) * len(LENGTHS),
        prompts=((1,),) * len(LENGTHS),
        text=np.array(LENGTHS),
    )


def test_more_tokens_count_as_right_as_more_are_asked(states: States, heads: ExitHeads) -> None:
    found = read_exits(states, unembed, heads, ())
    ranked = unembed(states.at(len(EXITS))).argsort(-1, descending=True).numpy()
    assert np.array_equal(among_most_likely(states, unembed, found.tokens, 1), found.right)
    assert among_most_likely(states, unembed, found.tokens, VOCAB).all()
    for most in (2, 4):
        right = among_most_likely(states, unembed, found.tokens, most)
        wanted = [[token in ranked[n, :most] for n, token in enumerate(e)] for e in found.tokens]
        assert np.array_equal(right, wanted)


def test_readings_by_brute_force(states: States, heads: ExitHeads) -> None:
    found = read(states, heads, unembed)
    for number in range(1, len(EXITS)):
        for token in range(sum(LENGTHS)):
            last, now = (states.at(one, [token])[0] for one in (number - 1, number))
            cosine = float(last @ now / last.norm() / now.norm())
            assert found["cosine"][number, token] == pytest.approx(cosine, abs=1e-5)
            translated = heads.translate(EXITS[number - 1], last[None])
            two = unembed(translated)[0].sort(descending=True).values[:2].tolist()
            assert found["margin"][number, token] == pytest.approx(two[0] - two[1], abs=1e-4)
    assert not found["cosine"][0].any()
    assert not found["margin"][0].any()
    places = [number for length in LENGTHS for number in range(length)]
    assert np.expm1(found["position"][1]) == pytest.approx(places)


def test_a_reading_that_tells_is_used_and_the_odds_alone_keep_their_order(
    states: States, heads: ExitHeads
) -> None:
    told: dict[str, Any] = read(states, heads, unembed)
    right = np.array([row > np.median(row) for row in told[""]])
    labels = Exits(np.zeros(right.shape, dtype=np.int64), right, {})
    alone = confidences(told, told, labels, ())
    for row, odds in zip(alone, told[""], strict=True):
        assert np.array_equal(np.argsort(row, kind="stable"), np.argsort(odds, kind="stable"))
    hint = told | {"margin": np.where(right, 1.0, -1.0)}
    told_margin = confidences(hint, hint, labels, ("margin",))
    assert ((told_margin > 0.5) == right).all()


def test_what_is_read_is_billed(heads: ExitHeads) -> None:
    look = read_look("rank:2+shortlist:3")
    flops = reading_flops(heads, look, EXITS, VOCAB, WIDTH)
    assert set(flops) == set(READINGS)
    assert flops["cosine"] == [0, 6 * WIDTH, 6 * WIDTH]
    first, second, last = flops["margin"]
    assert first == look.flops(0, WIDTH, VOCAB) + heads.translator_flops(1)
    assert second == 2 * 3 * WIDTH + heads.translator_flops(2)
    assert last == 0


def test_whole_documents_are_drawn(states: States) -> None:
    for tokens in (1, 6, 100):
        some = some_documents(states, tokens)
        assert len(some.token) >= min(tokens, sum(LENGTHS))
        assert set(np.bincount(some.document).tolist()) <= set(LENGTHS)
