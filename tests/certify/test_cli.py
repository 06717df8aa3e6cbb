"""The command line, end to end on a random checkpoint, and every wrong option in one line."""

from __future__ import annotations

import functools
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from dynamax_lm.certify import losses
from dynamax_lm.certify.cli import main, parser
from dynamax_lm.certify.tasks import ChosenTask, choose_documents, load_tasks
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.common.errors import SettingError
from dynamax_lm.engine.sources import ComputedInOrder
from dynamax_lm.harness.command_line import Command
from dynamax_lm.harness.decontamination import read_records
from dynamax_lm.harness.plugin.task_folder import TASKS
from dynamax_lm.heads import read_config
from dynamax_lm.models import answering
from dynamax_lm.models.lm import DynamaxMamba
from dynamax_lm.models.runner import EngineRunner
from tests.checkpoints import byte_tokenizer, save_checkpoint
from tests.heads.builders import heads_of
from tests.quick import only_toys_alone

pytestmark = pytest.mark.usefixtures("toys_alone")

TOYS = str(Path(__file__).parent.parent / "harness" / "toys")
DOCUMENTS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mamba2"), "mamba2")


def sums(count: int) -> list[dict[str, Any]]:
    """Toy records in the toy tasks' columns."""
    return [
        {"question": f"{n}+{n % 7}", "answer": str(n), "choices": [str(n), "no"], "gold": 0}
        for n in range(count)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough new documents, repeats of two, and one that the samples evaluate on."""
    sample = next(read_records(TASKS / "triviaqa" / "sample.jsonl"))
    stranger = {"question": sample["question"], "answer": "x", "choices": ["x", "y"], "gold": 0}
    records = sums(DOCUMENTS)
    mixed = [stranger, *records[:2], *records]
    return write(tmp_path_factory.mktemp("data") / "sums.jsonl", mixed)


Run = Callable[..., Certificate]


@pytest.fixture
def run(folder: Path, data: Path, tmp_path: Path) -> Run:
    """``run(task=..., **options)``: the command with good options, some of them changed."""

    def call(**options: Any) -> Certificate:
        defaults: dict[str, Any] = {
            "model": "dynamax-mamba",
            "model_args": f"pretrained={folder},exit_layers=1+2+3,dtype=float32",
            "tasks": "toy_gen",
            "data": data,
            "include_path": TOYS,
            "gen_kwargs": "max_gen_toks=3",
            "num_fewshot": 0,
            "batch_size": 64,
            "device": "cpu",
            "thresholds": "1,0.9,0.2,0",
            "risk": 0.1,
            "output_path": tmp_path / "out",
        }
        given = {name: value for name, value in (defaults | options).items() if value is not None}
        words = [
            part
            for name, value in given.items()
            for part in ((f"--{name}",) if value is True else (f"--{name}", str(value)))
        ]
        return main(words)

    return call


def _written(tmp_path: Path) -> Certificate:
    (path,) = tmp_path.glob("out/*/certificate.json")
    return Certificate.loads(path.read_text())


def test_the_next_command_makes_the_same_requests(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(num_fewshot=0, system_instruction="Be brief.", thresholds="1")
    (line,) = (
        one for one in capsys.readouterr().out.splitlines() if one.startswith("next: lm_eval ")
    )
    words = shlex.split(line)
    for name, value in (
        ("num_fewshot", "0"),
        ("batch_size", "64"),
        ("system_instruction", "Be brief."),
    ):
        assert words[words.index(f"--{name}") + 1] == value


def test_a_certificate_says_what_a_run_at_its_threshold_shows(
    run: Run, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = run()
    printed, told = capsys.readouterr()
    assert certificate == _written(tmp_path)
    assert told.count(" requests: under a minute") == 1, "before the first threshold, of it alone"
    assert told.count("2 more thresholds, fewer if one fails: ") == 1, "after the second"
    assert certificate.documents == DOCUMENTS
    assert "1 left out: in evaluation samples" in printed
    assert "2 left out: repeats" in printed
    assert "fewer than 29 independent units" in printed
    assert f"in {DOCUMENTS} independent units (no two share a passage)" in printed
    assert certificate.threshold is not None
    assert certificate.grid[-1].p_value > certificate.delta, "random exits do not agree for long"
    for point in certificate.grid:
        assert f"{point.threshold:g}" in printed

    # The same documents, evaluated on their own by a fresh model.
    lm = DynamaxMamba(
        pretrained=str(folder), exit_layers="1+2+3", threshold=0.2, device="cpu", batch_size=64
    )
    records = write(tmp_path / "new.jsonl", sums(DOCUMENTS))
    task = task_over(records)
    results = lm_eval.simple_evaluate(
        model=lm,
        tasks=[task],
        gen_kwargs={"max_gen_toks": 3},
        num_fewshot=0,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    values = results["results"]["toy_gen"]
    (outcome,) = next(p for p in certificate.grid if p.threshold == 0.2).outcomes
    assert outcome.mean_loss == pytest.approx(1 - values["agreement,clean"], abs=1e-6)
    assert outcome.flops_saved == pytest.approx(values["flops_saved,clean"], abs=1e-6)


def test_shared_prompts_and_reference_change_nothing_of_a_certificate(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That every threshold is really run, whatever the skipped state, is the runner's own test."""
    prefilled: list[int] = []

    class Counted(ComputedInOrder):
        def prompt_state(self, *given: Any) -> Any:
            prefilled.append(1)
            return super().prompt_state(*given)

    monkeypatch.setattr(answering, "ComputedInOrder", Counted)
    options = {"tasks": "toy_mc", "metric": "consistency", "risk": 0.3, "thresholds": "1,0.5"}
    shared = run(**options)
    assert len(shared.grid) == 2
    assert len(prefilled) == -(-2 * DOCUMENTS // 64), "each batch of prompts once"
    monkeypatch.setattr("dynamax_lm.certify.run.ReuseRunner", lambda derives: EngineRunner())
    assert replace(run(**options), date=shared.date) == shared


def task_over(path: Path) -> Any:
    options = ["--model", "dynamax-mamba", "--tasks", "toy_gen", "--include_path", TOYS]
    (task,) = load_tasks(Command(parser().parse_args(options)), path)
    return task


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


@pytest.mark.parametrize(
    ("task", "metric", "method"),
    [
        ("toy_gen", "consistency", "binomial"),
        ("toy_gen", "exact_match", "betting"),
        ("toy_mc", "acc", "betting"),
    ],
)
def test_other_metrics(run: Run, tmp_path: Path, task: str, metric: str, method: str) -> None:
    certificate = run(tasks=task, metric=metric, thresholds="1,0.5", risk=0.2)
    assert certificate == _written(tmp_path)
    assert certificate.tasks[0].method.startswith(method)
    assert metric in certificate.tasks[0].loss
    assert certificate.grid[0].outcomes[0].mean_loss == 0, "nothing leaves at 1"
    assert certificate.threshold is not None


def test_nothing_certifies_and_says_so(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = run(thresholds="0", risk=0.01, delta=0.3)
    assert certificate.threshold is None
    assert _written(tmp_path).threshold is None
    assert "Nothing certifies" in capsys.readouterr().out


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"risk": 0}, "risk=0"),
    ({"risk": 1}, "risk=1"),
    ({"risk": "nan"}, "risk=nan"),
    ({"delta": 0}, "delta=0"),
    ({"delta": "inf"}, "delta=inf"),
    ({"risk": 0.001}, "cannot certify risk 0.001"),
    ({"metric": "agrement"}, "did you mean agreement"),
    ({"metric": "acc"}, "metric=acc"),
    ({"tasks": "toy_genn"}, "toy_genn"),
    ({"tasks": "toy_gen,toy_mc"}, "name one task"),
    ({"tasks": "toy_group"}, "name one task"),
    ({"tasks": ","}, "Tasks not found"),
    ({"data": None}, "7 documents; at least 300"),
    ({"group_by": "topic"}, "group_by=topic"),
    ({"group_by": "gold"}, "form 1 independent units"),
    ({"fewshot_as_multiturn": True}, "apply_chat_template"),
    ({"data": "/no/such/file.jsonl"}, "/no/such/file.jsonl"),
    ({"limit": 299}, "299 documents"),
    ({"limit": 0}, "limit=0"),
    ({"limit": 2.5}, "limit=2.5"),
    ({"limit": float("inf")}, "limit=inf"),
    ({"limit": float("nan")}, "limit=nan"),
    ({"num_fewshot": -1}, "num_fewshot=-1"),
    ({"num_fewshot": 2}, "examples would be documents"),
    ({"thresholds": "0.9,x"}, "0.9,x"),
    ({"thresholds": "0.9,0.9"}, "twice"),
    ({"thresholds": "1.5"}, "1.5"),
    ({"model": "hf"}, "dynamax-mistral"),
    ({"config": "/no/such/file.yaml"}, "/no/such/file.yaml"),
    ({"model_args": "pretrained=tiny,threshold=0.5"}, "--thresholds"),
    ({"model_args": "pretrained=tiny,mode=full"}, "mode=full"),
    ({"model_args": "pretrained=tiny,reference=false"}, "reference=false"),
    ({"model_args": "pretrained=tiny,confidence=oracle"}, "oracle"),
    ({"model_args": "pretrained=tiny,trace_dir=x"}, "trace_dir"),
    ({"output_path": None}, "give --output_path"),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[str(pair[0]) for pair in WRONG])
def test_a_wrong_option_is_one_line_before_weights_load(
    run: Run, options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamaxMamba, "__init__", _no_model)
    with pytest.raises(SettingError) as caught:
        run(**options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def _no_model(self: Any, *args: Any, **kwargs: Any) -> None:
    raise AssertionError("a model was asked for")


@pytest.mark.parametrize(
    "records",
    [
        [{"query": "1+1", "answer": "2"}] * 300,
        [{"question": "1+1"}] * 300,
        [{"question": "1", "answer": 1}, {"question": "2", "answer": "two"}],
    ],
)
def test_wrong_columns_are_named(
    run: Run, tmp_path: Path, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DynamaxMamba, "__init__", _no_model)
    path = write(tmp_path / "odd.jsonl", records)
    with pytest.raises(SettingError, match=r"odd\.jsonl.*columns") as caught:
        run(data=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "said"), [("", True), (",heads=none", False)])
def test_heads_that_run_by_default_are_asked_what_they_were_trained_on(
    run: Run,
    given: str,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(DynamaxMamba, "__init__", _no_model)
    monkeypatch.chdir(tmp_path)  # where no run has left the training records
    with pytest.raises(AssertionError, match="asked for"):
        run(model_args=f"pretrained=tiny{given}")
    assert ("These heads were trained on" in capsys.readouterr().out) == said


def passages(count: int, each: int) -> list[dict[str, Any]]:
    """``each`` questions about each of ``count`` passages."""
    return [
        {"passage": f"About {n}.", "question": f"{n}+{k}", "answer": str(n + k), "topic": n // 2}
        for n in range(count)
        for k in range(each)
    ]


def test_questions_about_one_passage_are_one_unit(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write(tmp_path / "few.jsonl", passages(15, 21))
    with pytest.raises(SettingError, match=r"315 documents.*form 15 independent units.*group_by"):
        run(data=few)
    many = write(tmp_path / "many.jsonl", passages(301, 2))
    with pytest.raises(SettingError, match=r"form 151 independent units.*agree in topic"):
        run(data=many, group_by="topic")
    certificate = run(data=many, thresholds="1", gen_kwargs="max_gen_toks=1")
    (task,) = certificate.tasks
    assert (task.documents, task.units, task.grouped_by) == (602, 301, "contents")
    assert "602 documents in 301 independent units" in capsys.readouterr().out


def test_a_limit_is_a_seeded_draw(tmp_path: Path) -> None:
    task = task_over(write(tmp_path / "many.jsonl", sums(2 * DOCUMENTS)))

    def chosen(seed: int) -> ChosenTask:
        options: dict[str, Any] = {"data": None, "used_elsewhere": (), "group_by": None}
        return choose_documents(task, limit=DOCUMENTS, seed=seed, **options)

    assert len(chosen(0).documents) == chosen(0).units == DOCUMENTS
    assert chosen(0) == chosen(0)
    assert len({chosen(seed).digest for seed in range(5)}) == 5
    assert max(chosen(0).documents) > DOCUMENTS, "not the first of the file"


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


def test_a_failure_midway_leaves_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses.Loss, "of", _interrupt)
    with pytest.raises(KeyboardInterrupt, match="no certificate was written"):
        run(thresholds="1")
    assert not [path for path in tmp_path.rglob("*") if "certificate" in path.name]


def test_an_interrupted_certification_goes_on_after_what_it_tested(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"tasks": "toy_mc", "thresholds": "1,0.9,0.2"}
    whole = run(output_path=tmp_path / "whole", **asked)
    assert len(whole.grid) == 3
    evaluate, tested = Command.evaluate, []

    def stopping(self: Command, *given: Any, **options: Any) -> dict[str, Any]:
        if len(tested) == 2:
            raise KeyboardInterrupt
        tested.append(given)
        return evaluate(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Command, "evaluate", stopping)
        with pytest.raises(KeyboardInterrupt, match="goes on"):
            run(**asked)
        tested.clear()
        capsys.readouterr()
        patch.setattr(Command, "evaluate", lambda *a, **o: (tested.append(a), evaluate(*a, **o))[1])
        resumed = run(**asked)
    assert len(tested) == len(whole.grid) - 1
    assert "1 of the thresholds was tested before" in capsys.readouterr().out
    assert replace(resumed, date=whole.date) == whole
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["certificate.json"]


def _interrupt(self: Any, sample: Any) -> float:
    raise KeyboardInterrupt
