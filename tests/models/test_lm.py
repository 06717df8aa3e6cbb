"""At full depth our models are lm-eval's ``hf``; with exits they say what happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.models.huggingface import HFLM
from safetensors import safe_open

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.decoders.cpu import chosen_products as chosen
from dynamax_lm.decoders.cpu import product_choice as choice
from dynamax_lm.decoders.cpu import products
from dynamax_lm.harness.responses import record_of
from dynamax_lm.models.lm import DynamaxMistral
from tests.checkpoints import save_checkpoint, save_checkpoints
from tests.lm_requests import KINDS, PROMPTS, no_weights, ours, pairs, texts, theirs


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_checkpoints(tmp_path_factory, KINDS)


def test_a_command_without_a_device_runs_where_it_can(folders: dict[str, Path]) -> None:
    """lm-eval's command line passes its default, a GPU, whether there is one or not."""
    lm = ours("mistral", folders["mistral"], device=EvaluatorConfig().device)
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(SettingError, match="device=cuda:999"):
        ours("mistral", folders["mistral"], device="cuda:999")


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [True, False])
def test_an_empty_prompt_gets_the_prefix_token(kind: str, bos: bool, tmp_path: Path) -> None:
    model = ours(kind, save_checkpoint(tmp_path / kind, kind, bos=bos))
    (text,) = model.generate_until(texts([""]), disable_tqdm=True)
    (trace,) = record_of(text).traces  # type: ignore[union-attr]
    assert trace.prompt_tokens == 0
    assert len(trace) > 0


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


@pytest.mark.parametrize(
    ("gen_kwargs", "named"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"do_sample": True, "temperature": 0}, "temperature=0"),
        ({"do_sample": True, "temperature": -1.0}, "temperature=-1.0"),
        ({"do_sample": True, "temperature": 1.0, "top_p": "most"}, "top_p='most'"),
        ({"temperature": "warm"}, "temperature='warm'"),
        ({"max_gen_toks": "ten"}, "max_gen_toks='ten'"),
        ({"max_length": "ten"}, "max_length='ten'"),
        ({"max_length": 2}, "max_length=2 in gen_kwargs counts the prompt too, and one has 2"),
        ({"repetition_penalty": -1.0}, "repetition_penalty=-1.0"),
        ({"num_return_sequences": 2}, "num_return_sequences=2"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
        ({"temprature": 0.5}, "'temperature'"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    gen_kwargs: dict[str, Any], named: str, folders: dict[str, Path]
) -> None:
    model = ours("mistral", folders["mistral"])
    with pytest.raises(SettingError, match=named) as caught:
        model.generate_until(texts(["a"], **gen_kwargs), disable_tqdm=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("mistral", {"confidence": "sure"}, "sure"),
        ("mistral", {"confidence": "top_probb"}, "top_prob"),
        ("mistral", {"threshold": 1.5}, "1.5"),
        ("mistral", {"threshold": "abc"}, "abc"),
        ("mistral", {"threshold": float("nan")}, "nan"),
        ("mistral", {"exit_layers": 0}, "0"),
        ("mistral", {"exit_layers": "[2,4]"}, "4"),
        ("mistral", {"skipped_state": "freeze"}, "silent hole"),
        ("mamba2", {"skipped_state": "copy_kv"}, "propagate, freeze or recompute"),
        ("mistral", {"skipped_state": "nowhere.py:Ours"}, "working directory"),
        ("mistral", {"mode": "lossless", "skipped_state": "propagate"}, "leave it out"),
        ("mistral", {"treshold": 0.5}, "threshold"),
        ("mistral", {"use_safetensors": False}, "safetensors"),
        ("mistral", {"attn_implementation": "flash_attention_2"}, "flash_attention_2"),
        ("mistral", {"tp_plan": "auto"}, "tp_plan"),
        ("mistral", {"backend": "seq2seq"}, "seq2seq"),
        ("mistral", {"batch_size": 0}, "at least 1, or auto"),
    ],
)
def test_a_wrong_value_is_refused_before_weights_load(
    kind: str,
    options: dict[str, Any],
    named: str,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    with pytest.raises(SettingError, match=named) as caught:
        ours(kind, folders[kind], **options)
    assert "\n" not in str(caught.value)


def test_a_trace_folder_that_cannot_be_written_is_refused_before_weights_load(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingError, match="trace_dir") as caught:
            ours("mistral", folders["mistral"], trace_dir=str(folder))
        assert "\n" not in str(caught.value)


def test_another_architecture_is_sent_to_its_own_model(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFLM, "_create_model", no_weights)
    with pytest.raises(SettingError, match="use --model dynamax-mamba"):
        ours("mistral", folders["mamba2"])
    with pytest.raises(SettingError, match="use --model dynamax-mistral"):
        ours("mamba2", folders["mistral"])


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "/nowhere/at/all", "mistralai/Mistral-7B-v0.3"]
)
def test_what_cannot_be_had_is_named_and_tiny_is_offered(name: str) -> None:
    with pytest.raises(SettingError, match="tiny") as caught:
        ours("mistral", Path(name) if name.startswith("/") else name)  # type: ignore[arg-type]
    assert name.removeprefix("./") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "pickled"
    shutil.copytree(folders["mistral"], folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(SettingError, match="safetensors"):
        ours("mistral", folder)


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


def test_the_fingerprint_follows_what_can_change_a_number(folders: dict[str, Path]) -> None:
    def fingerprint(**options: Any) -> str:
        return ours("mistral", folders["mistral"], **options).fingerprint

    base = fingerprint()
    assert fingerprint(batch_size=7) == base
    assert fingerprint(threshold=0.5) != base
    assert fingerprint(skipped_state="copy_kv") != base
    assert fingerprint(dtype="bfloat16") != base
    assert fingerprint(max_length=50) != base


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


def test_weights_trained_anew_have_another_fingerprint(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "mistral")
    before = ours("mistral", folder)
    assert ours("mistral", folder).fingerprint == before.fingerprint
    with torch.no_grad():
        before.model.model.layers[1].input_layernorm.weight.mul_(1.5)
    before.model.save_pretrained(folder)
    assert ours("mistral", folder).fingerprint != before.fingerprint


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_checkpoint_is_packed_and_somebody_elses_model_is_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers, and the checkpoint can be saved again as it was."""
    folder = save_checkpoint(tmp_path / "model", kind)
    plain = ours(kind, folder, products="plain")
    monkeypatch.setattr(chosen, "_WORTH_MEASURING", 0)
    packed = ours(kind, folder, products="packed")
    answers = [one.generate_until(texts(PROMPTS), disable_tqdm=True) for one in (packed, plain)]
    assert answers[0] == answers[1]
    assert (
        packed.get_model_info()["model_num_parameters"]
        == (plain.get_model_info()["model_num_parameters"])
    )
    packed.model.save_pretrained(tmp_path / "again")
    with safe_open(str(tmp_path / "again" / "model.safetensors"), "pt") as again:
        for name, one in plain.model.state_dict().items():
            assert torch.equal(again.get_tensor(name), one)
    held = plain.model
    type(plain)(pretrained=held, tokenizer=plain.tokenizer)
    for model, has in [(packed.model, True), (held, False), (plain.model, False)]:
        assert any(type(part) is products.Packed for part in model.modules()) is has


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_a_measured_choice_is_on_record_and_not_in_the_fingerprint(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a second model measure again; what was asked for parts two runs."""
    monkeypatch.delenv("DYNAMAX_LM_PRODUCTS", raising=False)
    folder = save_checkpoint(tmp_path / "model", kind)
    before = ours(kind, folder)
    monkeypatch.setattr(chosen, "_WORTH_MEASURING", 0)
    monkeypatch.setattr(chosen, "_known", {})
    first = ours(kind, folder, batch_size=3)
    monkeypatch.setattr(chosen, "choose", None)
    again = ours(kind, folder, batch_size=3)
    assert before.fingerprint == first.fingerprint == again.fingerprint
    blocks = [one.get_model_info()["early_exit"]["products"] for one in (first, again)]
    assert blocks[0] == blocks[1] == json.loads(json.dumps(blocks[0]))
    assert blocks[0]["asked"] == "auto"
    assert blocks[0]["processor"]
    assert blocks[0]["shapes"]
    for shape in blocks[0]["shapes"]:
        assert {one["rows"] for one in shape["measured"]} == {1, 2, 3, 64}
        assert shape["why"]
        assert shape["layers"] >= 1
    monkeypatch.setattr(chosen, "choose", choice.choose)
    asked = ours(kind, folder, products="plain")
    monkeypatch.setenv("DYNAMAX_LM_PRODUCTS", "plain")
    assert ours(kind, folder).fingerprint == asked.fingerprint != first.fingerprint
    assert ours(kind, folder, products="auto").fingerprint == first.fingerprint


def test_products_are_fixed_at_loading_and_refused_where_they_cannot_be(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", "mistral")
    model = ours("mistral", folder, products="plain")
    model.change(products="plain", threshold=0.5)
    with pytest.raises(SettingError, match="products=packed: it is fixed"):
        model.change(products="packed")
    with pytest.raises(SettingError, match="products=packed: a model that is handed in"):
        type(model)(pretrained=model.model, tokenizer=model.tokenizer, products="packed")
    with pytest.raises(SettingError, match="products=packed: weights are arranged on a CPU"):
        ours("mistral", folder, products="packed", device="cuda")
    with pytest.raises(SettingError, match="products=fast"):
        ours("mistral", folder, products="fast")


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
