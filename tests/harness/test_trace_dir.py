"""Trace files of a run: a row for every emitted token, numbered as lm-eval numbers its samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toy_model import ToyExits

from dynamax_lm.common.tracefile import read_trace, trace_files

Evaluate = Callable[..., dict[str, Any]]


def test_every_emitted_token_has_its_row(evaluate: Evaluate, tmp_path: Path) -> None:
    tasks = ("toy_gen", "toy_mc", "toy_repeats", "toy_rolling")
    results = evaluate(*tasks, model=ToyExits(trace_dir=str(tmp_path)))
    assert [path.name for path in trace_files(tmp_path)] == [f"trace_{t}.jsonl" for t in tasks]
    for task in tasks:
        lines = list(read_trace(tmp_path / f"trace_{task}.jsonl"))
        assert len(lines) == results["config"]["early_exit"]["tasks"][task]["with_stop"]["tokens"]
        samples = results["samples"][task]
        for sample in (s for s in samples if s["filter"] == samples[0]["filter"]):
            expected = [
                (
                    *(request, repeat, window, *row[:-1], trace.prompt_tokens),
                    *(row.reference_pass, trace.text_tokens, None, None),
                )
                for request, answers in enumerate(sample["resps"])
                for repeat, answer in enumerate(answers)
                for window, trace in enumerate(answer.record.traces)
                for row in trace.rows()
            ]
            assert [x[2:] for x in lines if x.doc_id == sample["doc_id"]] == expected


def test_chosen_samples_keep_their_numbers(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate("toy_mc", model=ToyExits(trace_dir=str(tmp_path)), samples={"toy_mc": [2, 5]})
    assert {line.doc_id for line in read_trace(tmp_path / "trace_toy_mc.jsonl")} == {2, 5}
