"""The examples of CONTRIBUTING.md, run as somebody who copied them would run them."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import dynamax_lm
from benchmarks.criteria.asking import Fixed, read_exits
from dynamax_lm.certify.cli import main as certify
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.costs import costs_of_layers
from dynamax_lm.core.measures import BUILT_IN
from dynamax_lm.harness.command_line import Command
from dynamax_lm.headroom.__main__ import main as headroom
from dynamax_lm.headroom.__main__ import parser
from dynamax_lm.headroom.run import run
from dynamax_lm.headroom.verdict import WORTHWHILE
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.report.columns import with_outside
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import to_json, to_markdown
from dynamax_lm.settings import find_measure
from dynamax_lm.sweep.__main__ import main as sweep
from tests.builders import random_model, uneven_requests
from tests.checkpoints import BYTES, byte_tokenizer, save_checkpoint
from tests.examples import GUIDE, blocks, options, write_examples
from tests.quick import only_toys_alone
from tests.report.synthetic import GENERATION, Plan, write_run


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys only, and no look at the machine."""
    only_toys_alone(monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral")


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a ``model_type`` that the package lacks."""
    folder = tmp_path_factory.mktemp("neox")
    random_neox().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def random_neox(layers: int = 4) -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        **{"vocab_size": BYTES, "hidden_size": 16, "num_hidden_layers": layers},
        **{"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 96},
        **{"bos_token_id": 1, "eos_token_id": 2},
    )
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples as files of the working directory."""
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_measure_of_a_file_is_swept_verified_and_reported_like_a_built_in_one(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_measures.py:TopThreeMass"
    command = options(
        checkpoint,
        *("--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *("--vary", f"confidence=top_prob,{ours}", "--thresholds", "0.02,0.05"),
        trace_dir="traces",
    )
    sweep(command)
    found = blocks(here)
    own = [block for name, block in found.items() if "TopThreeMass" in name]
    others = [block for name, block in found.items() if "TopThreeMass" not in name]
    digests = {block["settings"]["confidence"] for block in own}
    assert (len(own), len(others), len(digests)) == (2, 2, 1)
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", *digests)
    assert len({block["fingerprint"] for block in found.values()}) == 4
    for name, block in found.items():
        if "TopThreeMass" in name:  # three probabilities are at least one
            twin = found[name.replace("my_measures.py_TopThreeMass", "top_prob")]
            assert block["layers_used"] <= twin["layers_used"]
            assert block["costs"]["measure"]["flops"] == [0, 0, 0]
        else:
            assert "measure" not in block["costs"]
    verified(capsys)
    assert f"{next(iter(digests))} ≥ 0.02" in to_markdown(build(load([here / "out"])))

    sweep(command)
    assert capsys.readouterr().err.count("finished before") == 4
    source = here / "my_measures.py"
    source.write_text(source.read_text() + "# another content\n")
    sweep(command)
    assert capsys.readouterr().err.count("finished before") == 2
    again = {block["settings"]["confidence"] for block in blocks(here).values()} - {"top_prob"}
    assert len(again) == 1
    assert not again & digests


@pytest.mark.parametrize(
    ("argument", "ours"),
    [("confidence", "my_measures.py:TopThreeMass"), ("skipped_state", "my_states.py:Damped")],
)
def test_a_class_of_a_file_is_certified_under_its_digest(
    here: Path, checkpoint: Path, argument: str, ours: str
) -> None:
    rows = [{"question": f"{n}+1", "answer": "x", "choices": ["x", "y"]} for n in range(300)]
    data = here / "rows.jsonl"
    data.write_text("".join(json.dumps(row | {"gold": 0}) + "\n" for row in rows))
    certificate: Certificate = certify(
        options(
            checkpoint,
            *("--tasks", "toy_gen", "--data", str(data), "--num_fewshot", "0"),
            *("--thresholds", "1", "--risk", "0.1"),
            *("--batch_size", "64", "--gen_kwargs", "max_gen_toks=1"),
            **{argument: ours},
        )
    )
    known = getattr(certificate.setting, argument)
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", known)


def test_a_measure_of_a_file_is_asked_by_the_benchmark_of_criteria(here: Path) -> None:
    del here
    name = find_measure("my_measures.py:TopThreeMass").name
    hidden = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))

    class Stored:
        """States of five tokens at two exits."""

        exits = (1, 2)
        token = np.zeros(5, dtype=np.int64)

        def at(self, number: int, part: slice) -> torch.Tensor:
            return hidden[number, part]

    states: Any = Stored()
    said = read_exits(states, lambda rows: rows, None, ("top_prob", name)).confidences
    assert (said[name] >= said["top_prob"]).all()
    assert (Fixed(said[name]).leave(0.6) <= Fixed(said["top_prob"]).leave(0.6)).all()


@pytest.mark.usefixtures("no_gradients")
def test_classes_of_a_file_are_used_from_python_by_the_names_that_loading_gives(here: Path) -> None:
    del here
    stack = dynamax_lm.MistralStack(random_model("mistral", 3))
    asked, _ = uneven_requests()
    written, policy = "my_measures.py:TopThreeMass", "my_states.py:Damped"
    with pytest.raises(ValueError, match="find_measure"):
        dynamax_lm.generate(stack, asked, policy=dynamax_lm.ExitPolicy((1,), written, 0.1))
    exits = dynamax_lm.ExitPolicy((1,), dynamax_lm.find_measure(written), 0.1)
    with pytest.raises(ValueError, match="find_skipped_state"):
        dynamax_lm.Ledger(stack.costs, exit_layers=(1,), skipped_state=policy)
    name = dynamax_lm.find_skipped_state(policy, stack.costs)
    answers = dynamax_lm.generate(stack, asked, policy=exits, skipped_state=name)
    ledger = dynamax_lm.Ledger(
        stack.costs, exit_layers=(1,), confidence=exits.confidence, skipped_state=name
    )
    assert all(
        0 < ledger.bill(one.trace).layers < ledger.bill(one.trace).full_depth for one in answers
    )


def test_a_rule_of_a_file_and_those_of_the_package_are_swept_and_verified(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_rules.py:Easing"
    command = ("--tasks", "toy_gen,toy_mc", "--limit", "3", "--thresholds", "0.02,0.05")
    rules = ("--vary", f"exit_rule=threshold,calm_decay,{ours}")
    sweep(options(checkpoint, *command, *rules, trace_dir="traces"))
    found = blocks(here)
    assert len({block["fingerprint"] for block in found.values()}) == 6
    easing = [block for name, block in found.items() if "Easing" in name]
    for block in easing:
        assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", block["settings"]["exit_rule"])
        assert block["layers_used"] == block["layers"], "no answer here has more than 8 tokens"
    verified(capsys)
    lists = ("--tasks", "toy_gen", "--limit", "3", "--vary", "threshold=[0.05,0.02,0.01],[0,1,1]")
    sweep([*options(checkpoint, *lists, trace_dir="more"), "--output_path", "lists"])
    assert report(["lists", "--verify"]) == 0
    fixed = ("--tasks", "toy_gen", "--limit", "3", "--vary", "exit_layers=1,2")
    sweep(
        [
            *options(checkpoint, *fixed, trace_dir="fixed_traces", exit_rule="fixed_depth"),
            *("--output_path", "fixed"),
        ]
    )
    assert report(["fixed", "--verify"]) == 0
    assert "always layer 1" in to_markdown(build(load([here / "fixed"])))


def verified(capsys: pytest.CaptureFixture[str]) -> None:
    """The sweep in ``out``, up to what code from outside computed."""
    capsys.readouterr()
    assert report(["out", "--verify"]) == 0
    said = capsys.readouterr().out
    assert " 0 do not match" in said
    assert "code from outside the package is not run to verify" in said


def test_a_skipped_state_of_a_file_is_swept_verified_and_reported(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_states.py:Damped"
    command = options(
        checkpoint,
        *("--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *("--vary", f"skipped_state=propagate,{ours}", "--thresholds", "0.02,1"),
        trace_dir="traces",
    )
    sweep(command)
    found = blocks(here)
    assert len({block["fingerprint"] for block in found.values()}) == 4
    own = {name: block for name, block in found.items() if "Damped" in name}
    assert len(own) == 2
    (name,) = {block["settings"]["skipped_state"] for block in own.values()}
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", name)
    for point, block in own.items():
        twin = found[point.replace("my_states.py_Damped", "propagate")]
        costs = block["costs"]
        kv = 4 * costs["width"] * costs["kv_heads"] * costs["head_dim"]
        assert costs["skipped_state"] == {"name": name, "flops": kv}
        assert "skipped_state" not in twin["costs"]
        if block["settings"]["threshold"] == 1:
            assert block["ledger"] == twin["ledger"]
        else:
            assert block["layers_used"] < block["layers"]
    verified(capsys)
    assert name in to_markdown(build(load([here / "out"])))


def test_headroom_bills_a_skipped_state_of_a_file(here: Path, checkpoint: Path) -> None:
    found = {}
    for state in ("propagate", "my_states.py:Damped", "copy_kv"):
        command = options(checkpoint, "--tasks", "toy_gen", "--limit", "3", skipped_state=state)
        headroom([*command, "--output_path", state])
        (file,) = here.glob(f"{state}/*/headroom.json")
        found[state] = json.loads(file.read_text())
    free, halved, copied = (one["groups"][0]["default"]["saved"] for one in found.values())
    assert free == halved, "projections are billed, and no product of elements"
    assert free["value"] < copied["value"]
    name = found["my_states.py:Damped"]["settings"]["skipped_state"]
    assert re.fullmatch(r"my_states\.py:Damped@[0-9a-f]{12}", name)


def test_headroom_evaluates_layers_of_a_file(here: Path, checkpoint: Path) -> None:
    del here
    ours = "my_layers.py:AverageAbove"
    command = options(checkpoint, "--tasks", "toy_mc", "--limit", "2", layers=ours)
    found = run(Command(parser().parse_args(command)), WORTHWHILE)
    assert found.layers == 8, "twice the checkpoint's own"
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", found.settings["layers"])


def test_layers_of_a_file_are_swept_verified_and_reported(
    here: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = "my_layers.py:AverageAbove"
    command = options(
        checkpoint,
        *("--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *("--point", "threshold=1", "--point", f"threshold=1,layers={ours}"),
        *("--point", f"threshold=0.05,layers={ours},skipped_state=recompute"),
        trace_dir="traces",
    )
    sweep(command)
    found = blocks(here)
    assert len({block["fingerprint"] for block in found.values()}) == 3
    own = [block for block in found.values() if "layers" in block["settings"]["arguments"]]
    (plain,) = [block for block in found.values() if block not in own]
    (name,) = {block["settings"]["arguments"]["layers"] for block in own}
    assert re.fullmatch(re.escape(ours) + "@[0-9a-f]{12}", name)
    assert [block["layers"] for block in own] == [2 * plain["layers"]] * 2
    full, early = sorted(own, key=lambda block: -block["settings"]["threshold"])
    assert full["layers_used"] == full["layers"] > early["layers_used"]
    verified(capsys)
    assert f"layers={name}" in to_markdown(build(load([here / "out"])))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"layers": "my_layers.py"}, r"FILE\.py:CLASS"),
        ({"layers": "my_layers.py:AverageCosts"}, r"lacks costs\(self, own\)"),
        ({"layers": "my_layers.py:AverageAbove", "heads": "tiny-mistral"}, "own layers"),
        ({"layers": "my_layers.py:LayerPlan"}, "NotImplementedError"),
        ({"layers": "my_layers.py:AverageAbove", "exit_layers": [8]}, r"1\.\.7"),
        ({"layers": "my_layers.py:AverageAbove", "skipped_state": "copy_kv"}, "copy_kv"),
    ],
)
def test_layers_that_cannot_run_are_refused_before_the_weights_load(
    here: Path, checkpoint: Path, given: dict[str, Any], word: str
) -> None:
    del here
    with pytest.raises(SettingError, match=word):
        dynamax_lm.load(str(checkpoint), **given)


def average_above(here: Path, model: Any) -> dynamax_lm.Decoder:
    """The example's layers in a model."""
    plan: Any = runpy.run_path(str(here / "my_layers.py"))["AverageAbove"]()
    stack = dynamax_lm.MistralStack(model)
    made = stack.with_layers(plan.layers(stack.layers, model))
    assert made.costs == costs_of_layers(plan.costs(stack.costs.kinds))
    return made


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("skipped", ["propagate", "recompute"])
@pytest.mark.parametrize("threshold", [1.0, 0.15])
def test_a_new_kind_of_layer_decodes_as_it_scores(
    here: Path, skipped: str, threshold: float
) -> None:
    """Alone and beside others; at full depth as its modules do when called one after the other."""
    model = random_model("mistral", 3)
    stack = average_above(here, model)
    policy = dynamax_lm.ExitPolicy((1, 2, 4), "top_prob", threshold)
    given: Any = {"policy": policy, "skipped_state": skipped, "reference": True}
    asked, _ = uneven_requests()
    answers = dynamax_lm.generate(stack, asked, **given)
    depths = {used for answer in answers for used in answer.trace.layers_used}
    assert depths == {6} if threshold == 1 else len(depths) > 1
    again = [
        dynamax_lm.ScoreRequest(one.prompt, answer.trace.tokens)
        for one, answer in zip(asked, answers, strict=True)
    ]
    scored = dynamax_lm.score(stack, again, **given)
    ledger = dynamax_lm.Ledger(stack.costs, exit_layers=policy.exit_layers, skipped_state=skipped)
    for one, answer, other in zip(asked, answers, scored, strict=True):
        (alone,) = dynamax_lm.generate(stack, [one], **given)
        assert alone.trace.tokens == answer.trace.tokens == other.trace.emitted
        assert alone.trace.layers_used == answer.trace.layers_used == other.trace.layers_used
        assert answer.reference == greedy_by_hand(model, stack, one)
        bill = ledger.answer(answer.trace.prompt_tokens, answer.trace.layers_used)
        if threshold == 1:
            assert answer.trace.tokens == answer.reference
            assert bill.spent - bill.full_depth == bill.checks
        else:
            assert bill.layers < bill.full_depth


@pytest.mark.usefixtures("no_gradients")
def test_a_new_kind_of_layer_decodes_losslessly(here: Path) -> None:
    model = random_model("mistral", 3)
    stack = average_above(here, model)
    asked, _ = uneven_requests()
    policy = dynamax_lm.ExitPolicy((2,), "top_prob", 0.1)
    answers = dynamax_lm.generate(stack, asked, policy=policy, draft_length=3)
    for one, answer in zip(asked, answers, strict=True):
        assert answer.trace.tokens == greedy_by_hand(model, stack, one)
    drafted = [one for answer in answers for one in answer.trace.rounds or ()]
    assert any(one.depths for one in drafted)


def greedy_by_hand(
    model: Any, stack: dynamax_lm.Decoder, request: dynamax_lm.GenerateRequest
) -> tuple[int, ...]:
    """Modules called on the whole text, each average in its closed form."""
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_new:
        hidden = model.model.embed_tokens(torch.tensor([tokens]))
        angles = model.model.rotary_emb(hidden, torch.arange(len(tokens))[None])
        past = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
        weights = 0.2 * 0.8 ** past.clamp(min=0).float()
        weights[:, 0] /= 0.2  # the first token starts the average
        weights = weights * (past >= 0)
        averages: list[Any] = list(stack.layers[1::2])
        for block, average in zip(model.model.layers, averages, strict=True):
            hidden = block(hidden, attention_mask=None, position_embeddings=angles)
            hidden = hidden + average.module(weights @ hidden)
        logits = model.lm_head(model.model.norm(hidden[0, -1]))
        tokens.append(int(logits.argmax()))
    return tuple(tokens[len(request.prompt) :])


PYTHIA = "my_layers.py:Pythia"


def test_a_new_model_type_is_swept_verified_and_drafted(
    here: Path, neox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = ("threshold=1", "threshold=0.05", "threshold=0.05,skipped_state=recompute")
    drafts = "mode=lossless,exit_layers=2,threshold=0.05"
    command = options(
        neox,
        *("--model", "dynamax", "--tasks", "toy_gen,toy_mc", "--limit", "3"),
        *(part for point in (*points, drafts) for part in ("--point", point)),
        layers=PYTHIA,
        trace_dir="traces",
    )
    sweep(command)
    found = sorted(blocks(here).values(), key=lambda one: one["layers_used"])
    assert len({block["fingerprint"] for block in found}) == 4
    (name,) = {block["settings"]["arguments"]["layers"] for block in found}
    assert re.fullmatch(re.escape(PYTHIA) + "@[0-9a-f]{12}", name)
    assert {block["layers"] for block in found} == {4}
    assert found[0]["layers_used"] < found[-1]["layers_used"] == 4
    capsys.readouterr()
    assert report(["out", "--verify"]) == 0
    assert " 0 do not match" in capsys.readouterr().out


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("skipped", ["propagate", "recompute"])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 1.0])
def test_a_new_model_type_decodes_as_transformers_and_as_it_scores(
    here: Path, neox: Path, skipped: str, threshold: float
) -> None:
    """If all tokens exit at layer 2, as transformers' model of two layers."""
    del here
    stack = dynamax_lm.load(str(neox), layers=PYTHIA).lm.stack
    policy = dynamax_lm.ExitPolicy((2, 3), "top_prob", threshold)
    given: Any = {"policy": policy, "skipped_state": skipped}
    asked, _ = uneven_requests()
    answers = dynamax_lm.generate(stack, asked, **given)
    depths = {used for answer in answers for used in answer.trace.layers_used}
    assert depths == {0.0: {2}, 1.0: {4}}.get(threshold, {2, 3, 4})
    again = [
        dynamax_lm.ScoreRequest(one.prompt, answer.trace.tokens)
        for one, answer in zip(asked, answers, strict=True)
    ]
    for one, answer, other in zip(
        asked, answers, dynamax_lm.score(stack, again, **given), strict=True
    ):
        assert answer.trace.tokens == other.trace.emitted
        assert answer.trace.layers_used == other.trace.layers_used
        (alone,) = dynamax_lm.generate(stack, [one], **given)
        assert alone.trace.tokens == answer.trace.tokens
        if threshold == 1:
            assert answer.trace.tokens == continued(random_neox(), one)
        if threshold == 0:
            cut = random_neox()
            cut.gpt_neox.layers = cut.gpt_neox.layers[:2]
            cut.config.num_hidden_layers = 2
            assert answer.trace.tokens == continued(cut, one)


def continued(model: Any, request: dynamax_lm.GenerateRequest) -> tuple[int, ...]:
    """Most likely tokens after forwards of the whole text."""
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_new:
        tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tuple(tokens[len(request.prompt) :])


def test_a_plan_of_other_layers_than_the_checkpoints_is_refused(here: Path, neox: Path) -> None:
    with pytest.raises(SettingError, match=r"'gpt_neox'; layers=FILE\.py:CLASS"):
        dynamax_lm.load(str(neox), layers="my_layers.py:AverageAbove")
    with pytest.raises(SettingError, match="'gpt_neox'"):
        dynamax_lm.load(str(neox), "dynamax-mistral", layers=PYTHIA)
    source = (here / "my_layers.py").read_text()
    changed = source.replace("torch.tensor([[len(row)]]", "torch.tensor([[2 * len(row)]]")
    assert changed != source
    (here / "my_layers.py").write_text(changed)
    with pytest.raises(SettingError, match=r"are not those that layers=my_layers\.py:Pythia"):
        dynamax_lm.load(str(neox), layers=PYTHIA)


def test_a_column_of_a_file_stands_in_every_table_and_file(here: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "in", Plan(documents=3, tasks={"gen": GENERATION}))
    assert report(["in", "--output_path", "page", "--columns", "my_columns.py:gap"]) == 0
    page = here / "page"
    data = json.loads((page / "leaderboard.json").read_text())
    assert re.fullmatch(r"my_columns\.py:gap@[0-9a-f]{12}", data["columns"]["quality_lost"])
    for row in data["rows"]:
        assert row["quality_lost"] == pytest.approx(row["full_depth"] - row["quality"])
    first = (page / "leaderboard.csv").read_text().splitlines()[0]
    assert first.split(",")[-1] == "quality_lost"
    lines = (page / "leaderboard.md").read_text().splitlines()
    heading = next(line for line in lines if line.startswith("|"))
    assert heading.split(" | ")[-1].strip(" |") == "quality lost"
    assert "quality lost" in (page / "index.html").read_text()
    assert "columns" not in json.loads(to_json(build(load([here / "in"]))))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("gap = 3", "gap is no Column"),
        ("{} key='agreement', value=lambda e: 1)", "a column of that key is there"),
        ("{} key='agreement_stderr', value=lambda e: 1)", "a column of that key is there"),
        ("{} key='Gap!', value=lambda e: 1)", "small letters"),
    ],
)
def test_a_column_that_is_none_is_refused(here: Path, source: str, word: str) -> None:
    made = "from dynamax_lm import Column\ngap = Column("
    (here / "my_columns.py").write_text(source.format(made))
    with pytest.raises(SettingError, match=word):
        with_outside(["my_columns.py:gap"])
    with pytest.raises(SettingError, match=r"FILE\.py:NAME"):
        with_outside(["gap"])


def test_the_settings_page_names_every_measure_of_the_registry() -> None:
    lines = (GUIDE.parent / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| `confidence` |")]
    assert set(BUILT_IN) <= set(re.findall(r"`(\w+)`", row))
