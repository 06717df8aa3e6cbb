"""A run that was interrupted ends exactly where an uninterrupted one does."""

from pathlib import Path

import pytest
import torch

from training.tiny import models
from training.tiny.data import Corpus, Story
from training.tiny.models import NAMES
from training.tiny.precision import orthogonalised, step_in
from training.tiny.train import Run, Settings, save_whole

PIECES = ["<s>", "</s>", *map(chr, range(2, 256))]


def _encode(documents: list[str]) -> list[list[int]]:
    return [[0, *document.encode(), 1] for document in documents]


def _run(name: str) -> Run:
    stories = [Story(f"Story {n}. " * 40, (("Who?", "me"),)) for n in range(2)]
    questions = [(f"What is {n}?", f"number {n}") for n in range(60)]
    settings = Settings(name, tokens_per_batch=256)
    return Run(settings, Corpus(stories=stories, questions=questions), _encode, PIECES)


@pytest.mark.parametrize("name", NAMES)
def test_resume_gives_the_same_state(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for depth in ("MISTRAL_LAYERS", "MAMBA_LAYERS", "HYBRID_LAYERS"):
        monkeypatch.setattr(models, depth, 8)
    straight = _run(name)
    straight.train_step(1.0)
    save_whole(straight.state(), tmp_path / "checkpoint.pt")
    resumed = _run(name)
    resumed.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    for run in (straight, resumed):
        run.train_step(0.5)
    assert (straight.step, straight.tokens, straight.cursor) == (
        resumed.step,
        resumed.tokens,
        resumed.cursor,
    )
    for (key, one), other in zip(
        straight.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(one, other), key
        assert torch.equal(straight.average[key], resumed.average[key]), key
    assert not list(tmp_path.glob(".*"))


def test_decay_reaches_zero() -> None:
    run = _run("mistral")
    run.step, run.decay_start = 1000, 1000
    assert run.lr_scale(100) == 1
    run.step = 1100
    assert run.lr_scale(100) == 0
    assert run.lr_scale(None) == 1


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_muon_in_float32_is_torchs_to_the_precision_of_bfloat16(shape: tuple[int, int]) -> None:
    moved = {}
    for precision in ("bfloat16", "float32"):
        matrix = torch.nn.Parameter(torch.zeros(shape))
        matrix.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with step_in(precision):
            torch.optim.Muon([matrix], lr=1.0).step()
        moved[precision] = matrix.detach()
    assert not torch.equal(moved["bfloat16"], moved["float32"])
    torch.testing.assert_close(moved["bfloat16"], moved["float32"], atol=0.05, rtol=0.05)
    spectrum = torch.linalg.svdvals(orthogonalised(matrix.grad, (3.4445, -4.775, 2.0315), 5, 1e-7))
    assert spectrum.min() > 0.3
    assert spectrum.max() < 1.6
