"""What training is expected to take follows from its trial, and the trial leaves no trace."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.engine import phase_timer
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.train import command, self_generated
from dynamax_lm.heads.train.backbone import Backbone, load_backbone
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.expected import Text, expected_seconds, read_ahead, text_of
from dynamax_lm.heads.train.objective import Objective
from dynamax_lm.heads.train.options import read_options, source_of
from dynamax_lm.heads.train.plan import stream_of
from dynamax_lm.heads.train.self_generated import _Pace, _trial_first
from dynamax_lm.heads.train.windows import Batch
from tests.checkpoints import save_checkpoint

MODEL = "dynamax-mistral"
READ, TRANSLATE, CLASSIFY = 2.0, 3.0, 5.0
"""Seconds of a clock that counts tokens of batches, with padding."""
KINDS = st.lists(
    st.tuples(st.sampled_from([(), ("a",), ("b",), ("c", "d"), ("e",), ("f",)]), st.integers(1, 9)),
    min_size=1,
    max_size=40,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [{"prompt": f"{'q' * (n % 7)} {n}:", "answer": "y" * (3 + n % 5)} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def words(checkpoint: str, data: str, out: Path, *more: object) -> list[str]:
    given = ("--model", MODEL, "--model_args", f"pretrained={checkpoint},dtype=float32")
    common = ("--batch_size", 2, "--window", 32, "--max_steps", 9, "--width", 8, "--held_out", 0.3)
    return [str(one) for one in (*given, "--data", data, "--output_path", out, *common, *more)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let work take the time of its tokens."""
    clock = SimpleNamespace(now=0.0, tokens=0)
    read, forward = Backbone.read, Objective.forward

    def reads(self: Backbone, batch: Batch, exits: Sequence[int]) -> list[torch.Tensor]:
        clock.now += READ * batch.ids.numel()
        clock.tokens = batch.ids.numel()
        return read(self, batch, exits)

    def learns(self: Objective, seen: Any, translators: bool, classifiers: bool, seed: int) -> Any:
        clock.now += clock.tokens * (TRANSLATE * translators + CLASSIFY * classifiers)
        return forward(self, seen, translators, classifiers, seed)

    monkeypatch.setattr(Backbone, "read", reads)
    monkeypatch.setattr(Objective, "forward", learns)
    monkeypatch.setattr(phase_timer.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("done", [0, 2, 7])
@pytest.mark.parametrize("one_pass", [None, 5.0])
def test_phases_take_their_steps_times_the_rates_of_the_trial(
    checkpoint: str,
    data: str,
    tmp_path: Path,
    *,
    cache: bool,
    joint: bool,
    done: int,
    one_pass: float | None,
) -> None:
    more = [*(["--cache"] if cache else []), *(["--joint"] if joint else [])]
    options = read_options(words(checkpoint, data, tmp_path, "--translator_steps", 4, *more))
    backbone = load_backbone(MODEL, options.model_args, "cpu")
    text = read_ahead(options, source_of(options), backbone)._replace(one_pass=one_pass)
    found = expected_seconds(options, backbone, text, autocast=nullcontext, processes=1, done=done)
    tokens = sum(one.ids.numel() for one in text.batches) / len(text.batches)
    stages = (
        {"joint steps": (0, 9, TRANSLATE + CLASSIFY)}
        if joint
        else {"translator steps": (0, 4, TRANSLATE), "classifier steps": (4, 9, CLASSIFY)}
    )
    read_until = 9.0 if not cache or one_pass is None else one_pass
    expected = {}
    for name, (first, last, rate) in stages.items():
        steps = last - max(done, first)
        fresh = max(0.0, min(last, read_until) - max(done, first))
        if steps > 0:
            expected[name] = tokens * (rate * steps + READ * fresh)
    assert found.pop("calibration and evaluation") > 0
    assert found == pytest.approx(expected)


def test_no_more_is_evaluated_than_is_held_out(checkpoint: str, data: str, tmp_path: Path) -> None:
    backbone = load_backbone(MODEL, f"pretrained={checkpoint},dtype=float32", "cpu")

    def seconds(tokens: int, one_pass: float | None) -> float:
        given = words(checkpoint, data, tmp_path, "--calibration_tokens", tokens)
        options = read_options(given)
        text = read_ahead(options, source_of(options), backbone)._replace(one_pass=one_pass)
        clock.now = 0.0
        return expected_seconds(options, backbone, text, autocast=nullcontext, processes=1, done=9)[
            "calibration and evaluation"
        ]

    clock = SimpleNamespace(now=0.0)

    def tick() -> float:
        clock.now += 1.0
        return clock.now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phase_timer.time, "perf_counter", tick)  # all work takes a second
        assert seconds(200, None) == pytest.approx(2 * seconds(100, None))
        assert seconds(10**9, 7.0) == pytest.approx(7 * seconds(10**9, 1.0))
        assert seconds(100, 1e9) == pytest.approx(seconds(100, None))


def test_the_batches_ahead_are_those_of_the_run(checkpoint: str, data: str, tmp_path: Path) -> None:
    options = read_options(words(checkpoint, data, tmp_path))
    backbone = load_backbone(MODEL, options.model_args, "cpu")
    source = source_of(options)
    stream = stream_of(options, source, backbone, "train")
    before, ahead, state = stream.state(), stream.ahead(), stream.state()
    given = [next(stream) for _ in ahead]
    assert [one.windows() for one in given] == [one.windows() for one in ahead]
    assert state == before
    text = read_ahead(options, source, backbone)
    trains = sum(1 for _ in stream_of(options, source, backbone, "train").once())
    assert text.one_pass == pytest.approx(trains, abs=len(ahead) / 2)


def test_some_answers_stand_for_all(checkpoint: str, data: str, tmp_path: Path) -> None:
    options = read_options(words(checkpoint, data, tmp_path))
    backbone = load_backbone(MODEL, options.model_args, "cpu")
    some = [Document(f"q {n}:", "yes and no") for n in range(3)]
    text = text_of(options, some, 100, backbone)
    assert sum(len(one.lengths) for one in text.batches) == len(some)
    assert text.one_pass == pytest.approx(100 * 0.7 / 2)
    nothing = Text((), 1.0)
    assert not expected_seconds(
        options, backbone, nothing, autocast=nullcontext, processes=1, done=0
    )


@given(KINDS)
def test_groups_to_try_are_some_of_each_kind_and_no_group_is_lost(
    kinds: list[tuple[tuple[str, ...], int]],
) -> None:
    groups = [
        [Document(f"{n} {m}", "", until=kind) for m in range(size)]
        for n, (kind, size) in enumerate(kinds)
    ]
    first, rest = _trial_first(groups)
    assert sorted(map(str, [*first, *rest])) == sorted(map(str, groups))
    of_kind = Counter(kind for kind, _ in kinds)
    tried = Counter(group[0].until for group in first)
    assert len(tried) == min(4, len(of_kind))
    assert all(count == (3 if of_kind[kind] >= 9 else 1) for kind, count in tried.items())


@given(KINDS)
def test_documents_that_end_alike_take_alike(kinds: list[tuple[tuple[str, ...], int]]) -> None:
    groups = [[Document("", "", until=kind)] * size for kind, size in kinds]
    pace = _Pace([one for group in groups for one in group])

    def rate(one: Document) -> float:
        return 1.0 + len(one.until)

    seen: dict[tuple[str, ...], None] = {}
    for group in groups:
        if group[0].until not in seen:
            pace.took(group, len(group) * rate(group[0]))
            seen[group[0].until] = None
    assert pace.seconds == pytest.approx(sum(rate(one) for group in groups for one in group))


@pytest.mark.parametrize("answers", ["data", "model"])
def test_the_trial_leaves_no_trace(
    checkpoint: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: str,
) -> None:
    more = ("--answers", answers, "--max_gen_toks", 4)

    def trained(name: str) -> dict[str, torch.Tensor]:
        command.train(words(checkpoint, data, tmp_path / name, *more))
        return ExitHeads.from_pretrained(tmp_path / name).state_dict()

    with_trial = trained("with")
    said = capsys.readouterr().err
    assert said.count("Expected: under a minute in all") == 1
    assert said.index("Expected:") < said.index("training heads: ")
    assert answers == "data" or said.index("answers: ") < said.index("Expected:")
    monkeypatch.setattr(command, "expected_seconds", lambda *given, **options: {})
    monkeypatch.setattr(command, "_say_expected", lambda *given: None)
    without = trained("without")
    assert all(torch.equal(one, without[name]) for name, one in with_trial.items())


def test_answers_that_are_known_take_no_time(
    checkpoint: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(MODEL, f"pretrained={checkpoint},dtype=float32", "cpu")
    options = read_options(words(checkpoint, data, tmp_path))
    trials: list[self_generated.AnswerTrial] = []
    for _ in range(2):
        self_generated.answered(
            *(source_of(options), backbone, tmp_path),
            **{"prompts": 30, "max_gen_toks": 4, "until": (), "window": 32},
            **{"batch_size": 8, "seed": 0, "on_trial": trials.append},
        )
    assert trials[0].seconds > 0
    assert 0 < len(trials[0].documents) < 30
    assert (trials[1].seconds, len(trials[1].documents)) == (0.0, 30)
