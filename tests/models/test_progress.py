"""Every progress bar says what is being done, and tools say first how long it takes at most."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dynamax_lm
from dynamax_lm.engine import phase_timer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.models import answering, expected_time
from dynamax_lm.models.runner import EngineRunner
from tests.checkpoints import save_checkpoint


class Bar:
    """Remembers the descriptions of bars."""

    said: list[str]

    def __init__(self, *args: Any, desc: str, **options: Any) -> None:
        self.said.append(desc)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, count: int = 1) -> None:
        return None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral")


def test_bars_name_the_mode_and_the_purpose(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bar.said = []
    monkeypatch.setattr(answering, "tqdm", Bar)
    model = dynamax_lm.load(str(checkpoint), dtype="float32", exit_layers=[2], threshold=0.5)
    for mode in ("exit", "full", "lossless"):
        model.change(mode=mode)
        model.generate("a", max_gen_toks=1)
        model.score("a", "b")
    with model.lm.answered_by(EngineRunner(), "to certify threshold 0.5"):
        model.generate("a", max_gen_toks=1)
    model.generate("a", max_gen_toks=1)
    assert Bar.said == [
        *("Generating with early exits", "Scoring with early exits"),
        *("Generating at full depth", "Scoring at full depth"),
        *("Generating losslessly", "Scoring at full depth"),
        *("Generating to certify threshold 0.5", "Generating losslessly"),
    ]


def test_what_is_expected_is_said_before_requests_are_answered(checkpoint: Path) -> None:
    """The trial changes no answer, and is made only for those who want to know."""
    model = dynamax_lm.load(str(checkpoint), dtype="float32", exit_layers=[2], threshold=0.5)
    plain = model.generate("ab", max_gen_toks=3), model.score("ab", "cd")
    said: list[tuple[str, float]] = []

    def note(what: str, seconds: float) -> None:
        said.append((what, seconds))

    with model.lm.answered_by(EngineRunner(), "", note):
        told = model.generate("ab", max_gen_toks=3), model.score("ab", "cd")
    assert [what for what, _ in said] == ["Generating for 1 requests", "Scoring for 1 requests"]
    assert all(seconds > 0 for _, seconds in said)
    for one, other in zip(plain, told, strict=True):
        assert repr(one) == repr(other)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_expected_seconds_follow_from_the_tokens(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """With a clock that counts tokens, the trial's rate holds for all requests."""
    stack = dynamax_lm.load(str(checkpoint), dtype="float32", exit_layers=[2]).lm.stack
    requests = [
        GenerateRequest(tuple(range(3, 3 + n % 9 + 1)), 2 + 2 * (n % 4), lambda answer: False)
        for n in range(count)
    ]

    def generated(stack: Any, some: Any, **options: Any) -> list[Any]:
        clock.now += sum(2.0 * len(one.prompt) + 5.0 * (one.max_new - 1) for one in some)
        halves = (range(one.max_new // 2) for one in some)
        return [SimpleNamespace(trace=SimpleNamespace(tokens=half)) for half in halves]

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(expected_time, "generate", generated)
    monkeypatch.setattr(phase_timer.time, "perf_counter", lambda: clock.now)
    seconds = expected_time.generation_seconds(stack, requests, 8)
    prompts, new = (
        sum(len(one.prompt) for one in requests),
        sum(one.max_new for one in requests),
    )
    share = 0.5 if count >= 32 else 1.0  # one of four batches tells how long answers are
    assert seconds == pytest.approx(2.0 * prompts + 5.0 * share * new)
