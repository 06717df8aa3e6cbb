"""With exits our models say what happened: whose tokens count, what is billed, what may change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_eval.config.evaluate_config import EvaluatorConfig

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.harness.responses import record_of
from dynamax_lm.models.lm import DynamaxMistral
from tests.checkpoints import save_checkpoint
from tests.lm_requests import KINDS, PROMPTS, ours, pairs, texts


def test_a_command_without_a_device_runs_where_it_can(folders: dict[str, Path]) -> None:
    """lm-eval's command line passes its default, a GPU, whether there is one or not."""
    lm = ours("mistral", folders["mistral"], device=EvaluatorConfig().device)
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(SettingError, match="device=cuda:999"):
        ours("mistral", folders["mistral"], device="cuda:999")


def test_a_loaded_model_may_be_passed(folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folders["mistral"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folders["mistral"])
    lm = DynamaxMistral(pretrained=model, tokenizer=tokenizer, threshold=0.3)
    expected = ours("mistral", folders["mistral"], threshold=0.3)
    asked = texts(PROMPTS)
    assert lm.generate_until(asked, disable_tqdm=True) == expected.generate_until(
        asked, disable_tqdm=True
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_low_precision_runs(kind: str, dtype: str, folders: dict[str, Path]) -> None:
    model = ours(kind, folders[kind], dtype=dtype, threshold=0.3)
    for text in model.generate_until(texts(PROMPTS), disable_tqdm=True):
        traces: tuple[AnswerTrace, ...] = record_of(text).traces  # type: ignore[union-attr]
        assert all(1 <= used <= 4 for used in traces[0].layers_used)
    assert model.get_model_info()["early_exit"]["settings"]["threshold"] == 0.3


def test_automatic_batches_need_no_probing_on_a_cpu(folders: dict[str, Path]) -> None:
    asked = texts(PROMPTS)
    fixed = ours("mamba2", folders["mamba2"]).generate_until(asked, disable_tqdm=True)
    automatic = ours("mamba2", folders["mamba2"], batch_size="auto")
    assert automatic.generate_until(asked, disable_tqdm=True) == fixed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [True, False])
def test_an_empty_prompt_gets_the_prefix_token(kind: str, bos: bool, tmp_path: Path) -> None:
    model = ours(kind, save_checkpoint(tmp_path / kind, kind, bos=bos))
    (text,) = model.generate_until(texts([""]), disable_tqdm=True)
    (trace,) = record_of(text).traces  # type: ignore[union-attr]
    assert trace.prompt_tokens == 0
    assert len(trace) > 0


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_exits_leave_in_scoring_and_without_a_reference_say_nothing_of_it(
    kind: str, folders: dict[str, Path]
) -> None:
    model = ours(kind, folders[kind], exit_layers="1+2", threshold=0, reference=False)
    for response in model.loglikelihood(pairs(), disable_tqdm=True):
        record = record_of(response)
        assert record is not None
        assert record.reference is None
        assert record.traces[0].full_depth is None
        assert set(record.traces[0].layers_used) == {1}
        assert record.bill.flops_saved > 0


def test_only_an_answers_own_tokens_count(folders: dict[str, Path]) -> None:
    """A row that stops early has no tokens from the steps its neighbours still took."""
    model = ours("mistral", folders["mistral"], threshold=0.3)
    until = [chr(code) for code in range(33, 127, 3)]  # random text meets one of these soon
    alone = [
        record_of(model.generate_until(texts([prompt], until=until), disable_tqdm=True)[0])
        for prompt in PROMPTS
    ]
    together = model.generate_until(texts(PROMPTS, until=until), disable_tqdm=True)
    lengths = set()
    for one, text in zip(alone, together, strict=True):
        record = record_of(text)
        assert one is not None
        assert record is not None
        assert record.traces[0].tokens == one.traces[0].tokens
        assert record.bill == one.bill
        lengths.add(len(record.traces[0]))
    assert len(lengths) > 1


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_the_text_is_billed_as_if_the_answer_ended_with_it(
    kind: str, folders: dict[str, Path]
) -> None:
    model = ours(kind, folders[kind], threshold=0.3)
    until = [chr(code) for code in range(33, 127, 3)]
    stopped = 0
    for text in model.generate_until(texts(PROMPTS, until=until), disable_tqdm=True):
        record = record_of(text)
        assert record is not None
        (trace,) = record.traces
        assert trace.text_tokens is not None
        kept = list(trace.tokens[: trace.text_tokens])
        bare = text.rstrip()
        assert model.tok_decode(kept).rstrip() == bare
        assert not kept or model.tok_decode(kept[:-1]).rstrip() != bare
        stopped += trace.text_tokens < len(trace)
        ledger = model._ledger
        assert record.billed_text == ledger.answer(
            trace.prompt_tokens, trace.layers_used[: len(kept)]
        )
        assert record.bill == ledger.answer(trace.prompt_tokens, trace.layers_used)
    assert stopped
    for response in model.loglikelihood(pairs(), disable_tqdm=True):
        record = record_of(response)
        assert record is not None
        assert record.traces[0].text_tokens is None
        assert record.billed_text == record.bill


def test_changed_settings_are_those_of_a_fresh_model(folders: dict[str, Path]) -> None:
    changed = ours("mistral", folders["mistral"], threshold=1.0, exit_layers=2)
    changed.change(threshold=0.0, confidence="margin")
    fresh = ours("mistral", folders["mistral"], threshold=0.0, confidence="margin", exit_layers=2)
    assert changed.fingerprint == fresh.fingerprint
    records = [record_of(lm.generate_until(texts(PROMPTS))[0]) for lm in (changed, fresh)]
    assert records[0] is not None
    assert records[0] == records[1]
    assert set(records[0].traces[0].layers_used) == {2}

    for wrong in ({"threshold": 1.5}, {"exit_layers": 9}, {"treshold": 0.5}):
        with pytest.raises(SettingError):
            changed.change(**wrong)
    assert changed.fingerprint == fresh.fingerprint


def test_seconds_and_rows_are_of_one_evaluation(folders: dict[str, Path]) -> None:
    from lm_eval import simple_evaluate

    from dynamax_lm.harness.plugin.task_folder import own_tasks

    model = ours("mistral", folders["mistral"], exit_layers="1", threshold=0.0)
    model.timer.answer, model.rows_in_flight = 1e6, 1000
    results = simple_evaluate(
        model,
        tasks=["dynamax_triviaqa_sample"],
        task_manager=own_tasks(),
        limit=1,
        num_fewshot=0,
        bootstrap_iters=0,
        gen_kwargs={"max_gen_toks": 2},
    )
    assert results is not None
    block = results["config"]["early_exit"]
    assert 0 < block["seconds"]["answer"] < 1e6
    assert block.get("rows_in_flight", 0) < 1000
