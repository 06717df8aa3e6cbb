"""Requests of a run share rows in flight, and answers are cached as soon as they are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.responses import record_of
from dynamax_lm.settings import parse_settings
from tests.lm_requests import ours, texts

QUESTIONS = [f"Q: what is {number} and {number * 7 % 5}?\nA:" for number in range(9)]


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
@pytest.mark.parametrize("mode", ["exit", "full"])
def test_texts_do_not_depend_on_the_rows_in_flight(
    kind: str, mode: str, folders: dict[str, Path]
) -> None:
    requests = texts(QUESTIONS)
    settings: dict[str, Any] = {"mode": mode, "threshold": 0.1, "exit_layers": 2}
    found = []
    for options in ({"batch_size": 20}, {"batch_size": 2}, {"batch_size": 2, "rows_in_flight": 3}):
        lm = ours(kind, folders[kind], **settings, **options)
        answers = lm.generate_until(requests, disable_tqdm=True)
        found.append([(str(text), record_of(text)) for text in answers])
        block = lm.get_model_info()["early_exit"]
        if options["batch_size"] == 2:
            expected = options.get("rows_in_flight", 8 if mode == "exit" else 2)
            assert block["rows_in_flight"] == expected
        else:
            assert "rows_in_flight" not in block  # one batch, in the state of its prompts
    for text, first, *others in zip(QUESTIONS, *found, strict=True):
        for other in others:
            assert other[0] == first[0], text
            assert other[1].traces[0].layers_used == first[1].traces[0].layers_used
            assert other[1].bill == first[1].bill


def test_answers_reach_the_response_cache_before_the_run_ends(folders: dict[str, Path]) -> None:
    lm = ours("mistral", folders["mistral"], batch_size=2, threshold=0.1, exit_layers=2)
    kept: list[tuple[Any, ...]] = []
    running: list[int] = []

    class Hook:
        def add_partial(self, kind: str, key: Any, answer: Any) -> None:
            assert kind == "generate_until"
            kept.append((key, str(answer)))
            running.append(len(done))

    done: list[Any] = []
    lm.cache_hook = Hook()
    requests = texts(QUESTIONS)
    answers = lm.generate_until(requests, disable_tqdm=True)
    done += answers
    assert sorted(kept) == sorted(
        (request.args, str(answer)) for request, answer in zip(requests, answers, strict=True)
    )
    assert set(running) == {0}


@pytest.mark.parametrize("value", [0, -1, "many", 1.5])
def test_a_wrong_number_of_rows_is_refused(value: object) -> None:
    with pytest.raises(SettingError, match="rows_in_flight"):
        parse_settings({"rows_in_flight": value})
    assert parse_settings({"rows_in_flight": "12"}).rows_in_flight == 12
    assert parse_settings({}).rows_in_flight is None


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_prompts_that_exit_change_the_record_and_the_fingerprint(
    kind: str, folders: dict[str, Path]
) -> None:
    """Under ``mode=full`` too: it is of answers. A rolling likelihood has one prompt token."""
    lm = ours(kind, folders[kind], batch_size=3, threshold=0.1, exit_layers=2)
    requests, prints = texts(QUESTIONS[:3]), set()
    rolling = [Instance("loglikelihood_rolling", {}, ("some words",), 0, (None, 0, 1))]
    total = lm.loglikelihood_rolling(rolling, disable_tqdm=True)
    for mode in ("exit", "full"):
        for layer in (None, 1, 4):
            lm.change(mode=mode, prompt_exit=layer)
            prints.add(lm.fingerprint)
            for text in lm.generate_until(requests, disable_tqdm=True):
                record = record_of(text)
                assert record is not None
                (trace,), bill = record.traces, record.bill
                early = layer == 1  # the last of four layers is none
                assert (bill.prompt_saved > 0) == early == (trace.prompt_exit == 1)
                assert trace.agreeing is not None
                if mode == "full":
                    assert bill.flops_saved == 0 < bill.flops_saved_total + (not early)
                    if not early:
                        assert trace.agreeing == len(trace)
        if mode == "exit":
            assert lm.loglikelihood_rolling(rolling, disable_tqdm=True) == total
    assert len(prints) == 4
    with pytest.raises(SettingError, match="prompt_exit=5"):
        lm.change(prompt_exit=5)
