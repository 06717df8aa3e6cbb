"""At full depth our models' texts and likelihoods are those of lm-eval's ``hf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.harness.responses import record_of
from tests.lm_requests import KINDS, PROMPTS, ours, pairs, texts, theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {},
        {"until": ["e", "zz"]},
        {"until": []},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "until": ["a", "e", "\n"]},
        {"do_sample": False, "temperature": 0.0, "top_k": 1},
    ],
)
def test_full_depth_text_is_that_of_hf(
    kind: str, gen_kwargs: dict[str, Any], folders: dict[str, Path]
) -> None:
    """Law 2: batches of three against batches of one, pads and prompts that are too long."""
    asked = texts([prompt for prompt in PROMPTS if prompt], **gen_kwargs)
    expected = theirs(folders[kind]).generate_until(asked, disable_tqdm=True)
    full = ours(kind, folders[kind], mode="full")
    got = full.generate_until(asked, disable_tqdm=True)
    assert got == expected
    never_leaves = ours(kind, folders[kind], threshold=1)
    assert never_leaves.generate_until(asked, disable_tqdm=True) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [14, 33, 60])
def test_a_max_length_is_that_of_hf_whatever_the_batch(
    kind: str, max_length: int, folders: dict[str, Path]
) -> None:
    """It replaces max_gen_toks and counts the prompt, which hf counts with its padding."""
    prompts = ["Q: where?\nA:", "a", "a longer one"]  # 12, 1 and 12 tokens, and one in front
    asked = texts(prompts, max_length=max_length, until=[])
    expected = theirs(folders[kind]).generate_until(asked, disable_tqdm=True)
    got = ours(kind, folders[kind], mode="full").generate_until(asked, disable_tqdm=True)
    assert got == expected
    ended = [record_of(text).traces[0] for text in got]  # type: ignore[union-attr]
    lengths = [trace.prompt_tokens + 1 + len(trace) for trace in ended]
    stopped = [trace.tokens[-1] == 2 for trace in ended]
    assert all(n == max_length or s for n, s in zip(lengths, stopped, strict=True)), lengths
    assert not all(stopped)


@pytest.mark.parametrize("kind", KINDS)
def test_full_depth_likelihoods_are_those_of_hf(kind: str, folders: dict[str, Path]) -> None:
    """Law 2, for pairs and for rolling windows."""
    expected = theirs(folders[kind]).loglikelihood(pairs(), disable_tqdm=True)
    for options in ({"mode": "full"}, {"threshold": 1}):
        got = ours(kind, folders[kind], **options).loglikelihood(pairs(), disable_tqdm=True)
        for (value, greedy), (wanted, wanted_greedy) in zip(got, expected, strict=True):
            assert value == pytest.approx(wanted, rel=1e-5, abs=1e-4)
            assert greedy == wanted_greedy
    rolling = pairs("loglikelihood_rolling", [("one two three. " * 20,), ("short",)])
    expected_totals = theirs(folders[kind]).loglikelihood_rolling(rolling, disable_tqdm=True)
    totals = ours(kind, folders[kind]).loglikelihood_rolling(rolling, disable_tqdm=True)
    full = ours(kind, folders[kind], mode="full").loglikelihood_rolling(rolling, disable_tqdm=True)
    assert full == pytest.approx(expected_totals, rel=1e-5)
    references = [record_of(total).reference for total in totals]  # type: ignore[union-attr]
    assert references == pytest.approx(expected_totals, rel=1e-5)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_the_reference_is_what_full_depth_answers(kind: str, folders: dict[str, Path]) -> None:
    asked = texts(PROMPTS, until=["e"])
    expected = ours(kind, folders[kind], mode="full").generate_until(asked, disable_tqdm=True)
    got = ours(kind, folders[kind], threshold=0.2).generate_until(asked, disable_tqdm=True)
    records = [record_of(text) for text in got]
    assert [record.reference for record in records if record] == expected
    scored = ours(kind, folders[kind], threshold=0.2).loglikelihood(pairs(), disable_tqdm=True)
    full = ours(kind, folders[kind], mode="full").loglikelihood(pairs(), disable_tqdm=True)
    for one, (value, greedy) in zip(scored, full, strict=True):
        reference = record_of(one).reference  # type: ignore[union-attr]
        assert isinstance(reference, tuple)
        assert reference[0] == pytest.approx(value, abs=1e-4)
        assert reference[1] == greedy
