"""What a run says of the certificate that its heads carry."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from dynamax_lm.certify.cli import main
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.heads import read_config
from dynamax_lm.models.lm import DynamaxMamba
from tests.certify.command import DOCUMENTS, TOYS, Run, sums, write
from tests.checkpoints import byte_tokenizer
from tests.heads.builders import heads_of
from tests.quick import only_toys_alone

pytestmark = pytest.mark.usefixtures("toys_alone")


def test_heads_carry_their_certificate_into_every_result(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certified on one task, then evaluated on it at ``threshold=certified``, and on another."""
    heads = tmp_path / "heads"
    trained_on = write(tmp_path / "train.jsonl", sums(DOCUMENTS + 9)[DOCUMENTS:])
    model = AutoModelForCausalLM.from_pretrained(folder)
    bank = heads_of(model, (1, 2, 3))
    bank.config = replace(bank.config, data={"name": str(trained_on)})
    bank.save_pretrained(heads)
    before = read_config(heads)

    new = write(tmp_path / "more.jsonl", sums(DOCUMENTS + 9))
    arguments = f"pretrained={folder},heads={heads},dtype=float32"
    certificate = run(model_args=arguments, data=new, thresholds="1,0.999", output_path=None)
    assert "9 left out: in evaluation samples or training data" in capsys.readouterr().out
    assert certificate.threshold is not None
    after = read_config(heads)
    assert Certificate.from_json(after.certificate) == certificate
    assert replace(after, certificate=None) == before
    assert certificate.setting.confidence == "head"
    assert certificate.setting.heads == before.identity

    lm = certified_model(str(folder), heads)
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=["toy_gen", "toy_mc"],
        gen_kwargs={"max_gen_toks": 3},
        num_fewshot=0,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=TOYS, include_defaults=False),
    )
    assert lm.settings.threshold == certificate.threshold
    shown = results["config"]["early_exit"]["certificate"]
    assert shown["applies"]["toy_gen"] == {"certified": True, "reason": None}
    assert "the certificate is for toy_gen" in shown["applies"]["toy_mc"]["reason"]


CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_is_certified_and_another_chat_is_not(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    """The same options certify and run; any other template, system prompt or way of turns not."""
    heads, chatty = tmp_path / "heads", tmp_path / "chatty"
    shutil.copytree(folder, chatty)
    model = AutoModelForCausalLM.from_pretrained(folder)
    heads_of(model, (1, 2, 3)).save_pretrained(heads)

    def speak(template: str) -> None:
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(chatty)

    speak(CHAT)
    arguments = f"pretrained={chatty},heads={heads},dtype=float32"
    certificate = run(
        model_args=arguments,
        thresholds="1",
        output_path=None,
        apply_chat_template=True,
        system_instruction="Add.",
        gen_kwargs="max_gen_toks=1",
    )
    assert certificate.tasks[0].setup.apply_chat_template
    assert certificate.tasks[0].setup.system_instruction == "Add."

    def reason(**changes: Any) -> str | None:
        options = {
            "apply_chat_template": True,
            "fewshot_as_multiturn": True,
            "system_instruction": "Add.",
        }
        label = applies(str(chatty), heads, **options | changes)["toy_gen"]
        assert label["certified"] == (label["reason"] is None)
        return label["reason"]  # type: ignore[no-any-return]

    assert reason() is None
    assert "system_instruction" in str(reason(system_instruction="Subtract."))
    assert "fewshot_as_multiturn" in str(reason(fewshot_as_multiturn=False))
    assert "apply_chat_template" in str(
        reason(apply_chat_template=False, fewshot_as_multiturn=False)
    )
    speak(CHAT.replace("<assistant>", "<model>"))
    assert "tokenizer is not what was certified" in str(reason())  # it holds the template


def certified_model(pretrained: str, heads: Path) -> DynamaxMamba:
    return DynamaxMamba(
        pretrained=pretrained,
        heads=str(heads),
        threshold="certified",
        dtype="float32",
        device="cpu",
        batch_size=64,
    )


def applies(pretrained: str, heads: Path, task: Any = "toy_gen", **options: Any) -> dict[str, Any]:
    """What a run of this task says of its heads' certificate."""
    results = lm_eval.simple_evaluate(
        model=certified_model(pretrained, heads),
        tasks=[task],
        num_fewshot=0,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=TOYS, include_defaults=False),
        **{"gen_kwargs": {"max_gen_toks": 1}} | options,
    )
    return dict(results["config"]["early_exit"]["certificate"]["applies"])


@pytest.fixture(scope="module")
def certified(folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads that carry a certificate for toy_gen."""
    heads = tmp_path_factory.mktemp("certified")
    heads_of(AutoModelForCausalLM.from_pretrained(folder), (1, 2, 3)).save_pretrained(heads)
    with pytest.MonkeyPatch.context() as patch:
        only_toys_alone(patch)
        main(
            [
                *("--model", "dynamax-mamba", "--tasks", "toy_gen", "--include_path", TOYS),
                *("--model_args", f"pretrained={folder},heads={heads},dtype=float32"),
                *("--data", str(data), "--gen_kwargs", "max_gen_toks=1", "--batch_size", "64"),
                *("--device", "cpu", "--thresholds", "1", "--risk", "0.1", "--num_fewshot", "0"),
            ]
        )
    return heads


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("description", "Add these numbers."),
        ("doc_to_text", "Sum of {{question}}:"),
        ("doc_to_target", "{{answer}}."),
        ("target_delimiter", ""),
        ("fewshot_delimiter", "\n"),
        ("filter_list", None),
        ("gen_prefix", "It is"),
    ],
)
def test_a_task_of_the_same_name_that_asks_otherwise_is_not_certified(
    part: str, value: object, folder: Path, certified: Path
) -> None:
    assert applies(str(folder), certified)["toy_gen"]["certified"]
    manager = TaskManager(include_path=TOYS, include_defaults=False)
    entry = {"group": "changed", "task": [{"task": "toy_gen", part: value}]}
    task = manager.load([entry])["tasks"]["toy_gen"]
    changed = applies(str(folder), certified, task=task)["toy_gen"]
    assert not changed["certified"]
    assert part in changed["reason"]


def test_what_changes_nothing_is_not_refused(
    folder: Path, certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    for name in (f"{folder}/", f"./{folder.name}"):
        assert applies(name, certified)["toy_gen"]["certified"]
    assert applies(str(folder), certified, system_instruction="")["toy_gen"]["certified"]


def test_requests_from_lm_evals_cache_count_as_they_were_rendered(
    folder: Path, certified: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache knows neither templates nor generation options."""
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path))
    ask = functools.partial(applies, str(folder), certified, cache_requests=True)
    longer = ask(gen_kwargs={"max_gen_toks": 3})["toy_gen"]["reason"]
    assert "generation_kwargs" in longer
    assert "request cache" in ask()["toy_gen"]["reason"], "the longer answers ran"
    assert ask(rewrite_requests_cache=True)["toy_gen"]["certified"]
    assert ask()["toy_gen"]["certified"], "now the cache holds the right ones"
