"""Sampling: each document's own random numbers, and transformers' distribution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynamax_lm.harness.responses import record_of
from tests.lm_requests import PROMPTS, ours, texts


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_sampling_is_each_documents_own(kind: str, folders: dict[str, Path]) -> None:
    """Law 6 for sampling: one generator a document and repeat; the reference shares it."""
    torch.manual_seed(7)
    kwargs = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 40, "min_p": 0.01}
    asked = texts(PROMPTS, **kwargs)
    in_threes = ours(kind, folders[kind], threshold=0.2)
    in_fives = ours(kind, folders[kind], threshold=0.2, batch_size=5)
    first = in_threes.generate_until(asked, disable_tqdm=True)
    assert in_fives.generate_until(asked[::-1], disable_tqdm=True) == first[::-1]
    full = ours(kind, folders[kind], mode="full").generate_until(asked, disable_tqdm=True)
    records = [record_of(text) for text in first]
    assert [record.reference for record in records if record] == full
    twice = in_threes.generate_until([asked[0], asked[0]], disable_tqdm=True)
    assert twice[0] == first[0]
    assert twice[1] != twice[0], "a repeat of a document draws anew"
    torch.manual_seed(8)
    assert in_threes.generate_until(asked, disable_tqdm=True) != first


def test_sampling_draws_from_transformers_distribution(folders: dict[str, Path]) -> None:
    """Gumbel draws follow the processed distribution: a chi-square bound over 4,000 draws."""
    from scipy.stats import chisquare

    from dynamax_lm.models.sampling import RowChooser, generation_config

    model = ours("mistral", folders["mistral"]).model
    config = generation_config(model, {"do_sample": True, "temperature": 0.7, "top_k": 5})
    logits = torch.linspace(-2, 2, 259)[None]
    draws = torch.zeros(259)
    for seed in range(4000):
        draws[RowChooser(model, config, (1, 2), seed)((), logits)] += 1
    top = logits[0].topk(5)
    expected = (top.values / 0.7).softmax(-1) * 4000
    assert draws.sum() == draws[top.indices].sum()
    assert chisquare(draws[top.indices].numpy(), expected.numpy()).pvalue > 1e-4
