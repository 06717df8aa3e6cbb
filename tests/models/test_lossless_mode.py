"""``mode=lossless`` inside lm-eval: checked, counted, timed, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dynamax_lm
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.tracefile import read_trace, trace_files
from dynamax_lm.models import speed_check
from dynamax_lm.models.draft_causes import Cause
from dynamax_lm.report.__main__ import main as report_main
from dynamax_lm.settings import parse_settings
from tests.checkpoints import save_checkpoint
from tests.quick import run_lm_eval

PROMPTS = ["a quiet harbour", "the", "numbers 1 2 3", "red and blue"]


@pytest.fixture(scope="module", params=["mistral", "mamba2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_checkpoint(tmp_path_factory.mktemp(request.param), request.param))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("gen", [{}, {"until": ["a", "e"]}, {"repetition_penalty": 1.3}])
def test_the_texts_are_full_depths(checkpoint: str, batch_size: int, gen: dict[str, Any]) -> None:
    full = dynamax_lm.load(checkpoint, mode="full", batch_size=batch_size)
    ours = dynamax_lm.load(
        checkpoint, mode="lossless", threshold=0.05, batch_size=batch_size, draft_length=3
    )
    theirs = full.generate(PROMPTS, max_gen_toks=12, **gen)
    answers = ours.generate(PROMPTS, max_gen_toks=12, **gen)
    assert [one.text for one in answers] == [one.text for one in theirs]
    assert all(one.agreement == 1.0 and one.reference == one.text for one in answers if len(one))
    assert sum(len(r.drafted) for one in answers for r in one.trace.rounds or ()) > 0


def test_drawn_texts_are_full_depths(checkpoint: str) -> None:
    gen: dict[str, Any] = {"max_gen_toks": 10, "do_sample": True, "temperature": 0.9}
    full = dynamax_lm.load(checkpoint, mode="full").generate(PROMPTS, **gen)
    ours = dynamax_lm.load(checkpoint, mode="lossless", threshold=0.0).generate(PROMPTS, **gen)
    assert [one.text for one in ours] == [one.text for one in full]


def test_some_documents_are_timed_both_ways(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_check, "DOCUMENTS", 2)
    model = dynamax_lm.load(checkpoint, mode="lossless", threshold=0.05)
    model.generate(PROMPTS, max_gen_toks=6)
    speed = model.lm.speed.to_json()
    assert speed["documents"] == 2
    assert speed["differing_documents"] == 0
    assert speed["speedup"] == pytest.approx(
        model.lm.speed.full_depth / model.lm.speed.lossless, 1e-2
    )


def test_after_the_timed_documents_rows_are_replaced(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batches are timed; the rest is one run of continuous rows, and all are checked."""
    monkeypatch.setattr(speed_check, "DOCUMENTS", 2)
    prompts = [f"{prompt} {number}" for prompt in PROMPTS for number in range(3)]
    gen: dict[str, Any] = {"max_gen_toks": 12, "until": list("abcdefghijklmnopqrstuvw")}
    full = dynamax_lm.load(checkpoint, mode="full").generate(prompts, **gen)
    model = dynamax_lm.load(checkpoint, mode="lossless", threshold=0.05, batch_size=2)
    answers = model.generate(prompts, **gen)
    assert [one.text for one in answers] == [one.text for one in full]
    assert all(one.reference == one.text for one in answers)
    assert len({len(one) for one in answers}) > 1, "else no row would finish before another"
    assert model.lm.speed.documents == 2
    assert model.lm.rows_in_flight == 2


def test_scores_run_at_full_depth(checkpoint: str) -> None:
    full = dynamax_lm.load(checkpoint, mode="full").score("a quiet", " harbour")
    ours = dynamax_lm.load(checkpoint, mode="lossless").score("a quiet", " harbour")
    assert (ours.log_likelihood, ours.greedy) == (full.log_likelihood, full.greedy)
    assert ours.flops == full.flops


def test_a_bill_counts_drafts_and_verification(checkpoint: str) -> None:
    model = dynamax_lm.load(checkpoint, mode="lossless", threshold=0.05, exit_layers=[1])
    for answer in model.generate(PROMPTS, max_gen_toks=12):
        trace = answer.trace
        whole = model.ledger.lossless(trace.prompt_tokens, trace.rounds or (), len(trace))
        assert whole.spent >= whole.full_depth
        assert (whole.verification > 0) == any(r.drafted for r in trace.rounds or ())


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"skipped_state": "propagate"}, "skipped_state"),
        ({"confidence": "oracle"}, "full depth's tokens"),
        ({"exit_layers": [1, 2]}, "one exit drafts"),
        ({"draft_length": 0}, "at least 1"),
        ({"draft_length": "long"}, "auto"),
        ({"threshold": "certified"}, "any threshold"),
        ({"rows_in_flight": 4}, "whole batches"),
        ({"prompt_exit": 2}, "a prompt exit changes"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    checkpoint: str, given: dict[str, Any], line: str
) -> None:
    with pytest.raises(SettingError, match=line):
        dynamax_lm.load(checkpoint, mode="lossless", **given)


def test_a_draft_length_needs_the_mode() -> None:
    with pytest.raises(SettingError, match="mode=lossless only"):
        parse_settings({"draft_length": "4"})
    assert parse_settings({"mode": "lossless", "draft_length": "4"}).draft_length == 4
    assert parse_settings({"mode": "lossless"}).draft_length == 0
    assert parse_settings({}).draft_length is None


@pytest.mark.usefixtures("toys_alone")
def test_traces_are_written(
    checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    toys = str(Path(__file__).parent.parent / "harness" / "toys")
    model = dynamax_lm.load(checkpoint, mode="lossless", trace_dir=str(tmp_path), batch_size=2)
    caplog.set_level("INFO", "lm_eval.dynamax_lm")
    results = lm_eval.simple_evaluate(
        model=model.lm,
        tasks=["toy_gen"],
        task_manager=TaskManager(include_path=toys, include_defaults=False),
        bootstrap_iters=0,
        gen_kwargs="max_gen_toks=12",
    )
    block = results["config"]["early_exit"]
    drafts = block["drafts"]
    assert drafts["accepted"] <= drafts["drafted"]
    assert drafts["tokens"] == block["generated_tokens"]
    assert block["agreement"] == 1.0
    assert block["speed"]["documents"] > 0
    (line,) = (one for one in caplog.records if "mode=lossless decoded" in one.getMessage())
    named = sum(cause.value in line.getMessage() for cause in Cause)
    assert model.lm.speed.speedup is not None
    assert named == (model.lm.speed.speedup < 1)
    assert block["certificate"] is None
    (values,) = results["results"].values()
    assert values["consistency,none"] == 1.0 if "consistency,none" in values else True
    assert {"passes_per_token", "accepted_length"} <= {key.split(",")[0] for key in values}
    lines = [line for path in trace_files(tmp_path) for line in read_trace(path)]
    assert {line.layers_used for line in lines} == {model.n_layers}


@pytest.mark.usefixtures("toys_alone")
def test_the_report_recomputes_drafts_and_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", "mistral")
    toys = str(Path(__file__).parent.parent / "harness" / "toys")
    arguments = f"pretrained={checkpoint},mode=lossless,threshold=0.05,trace_dir={tmp_path}/traces"
    run_lm_eval(
        monkeypatch,
        *("--model", "dynamax-mistral", "--model_args", arguments, "--include_path", toys),
        *("--tasks", "toy_gen,toy_mc", "--batch_size", "2", "--gen_kwargs", "max_gen_toks=12"),
        *("--log_samples", "--output_path", str(tmp_path / "out")),
    )
    report = [str(tmp_path), "--output_path", str(tmp_path / "report"), "--verify"]
    assert report_main(report) == 0
    pages = list((tmp_path / "report").rglob("*.html"))
    assert any('"rejected"' in page.read_text("utf-8") for page in pages)
    (trace,) = (tmp_path / "traces").glob("trace_toy_gen*.jsonl")
    changed = trace.read_text("utf-8").replace('"draft":[', '"draft":[1', 1)
    trace.write_text(changed, "utf-8")
    assert report_main(report) != 0
