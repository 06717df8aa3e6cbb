"""Every tool takes ideas from outside, by a file or an entry point, and names them by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dynamax_lm
from benchmarks.criteria.__main__ import main as criteria
from dynamax_lm.certify.cli import main as certify
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.extensions import installed
from dynamax_lm.headroom.__main__ import main as headroom
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.tables import to_markdown
from dynamax_lm.sweep.__main__ import main as sweep
from tests.checkpoints import save_checkpoint
from tests.examples import blocks, install_examples, options, write_examples
from tests.quick import only_toys_alone

DOORS = {
    "confidence": ("my_measures", "TopThreeMass"),
    "exit_rule": ("my_rules", "Easing"),
    "skipped_state": ("my_states", "Damped"),
    "layers": ("my_layers", "AverageAbove"),
    "report_column": ("my_columns", "gap"),
}
"""Module and object of each door's example in CONTRIBUTING.md."""


class Outside:
    """How the examples are named on a command line, and in results."""

    def __init__(self, folder: Path, *, by_entry_point: bool) -> None:
        self._folder, self._by_entry_point = folder, by_entry_point

    def __getitem__(self, door: str) -> str:
        module, name = DOORS[door]
        return f"own_{door}" if self._by_entry_point else f"{module}.py:{name}"

    def named(self, door: str) -> str:
        content = (self._folder / f"{DOORS[door][0]}.py").read_bytes()
        return f"{self[door]}@{hashlib.sha256(content).hexdigest()[:12]}"


@pytest.fixture(params=["file", "entry point"])
def outside(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outside]:
    """In a working directory that has the files only where they are named as files."""
    only_toys_alone(monkeypatch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    by_entry_point = request.param == "entry point"
    if by_entry_point:
        (tmp_path / "site").mkdir()
        groups = {
            f"dynamax_lm.{door}": {f"own_{door}": f"{module}:{name}"}
            for door, (module, name) in DOORS.items()
        }
        install_examples(tmp_path / "site", groups, monkeypatch)
        yield Outside(tmp_path / "site", by_entry_point=True)
        installed.cache_clear()
    else:
        write_examples(tmp_path / "work")
        yield Outside(tmp_path / "work", by_entry_point=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral")


def in_settings(settings: dict[str, Any], door: str) -> Any:
    return settings["arguments"]["layers"] if door == "layers" else settings[door]


def test_a_sweep_takes_them_and_a_report_shows_them(
    outside: Outside, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doors = ("confidence", "exit_rule", "skipped_state", "layers")
    points = [("--point", f"threshold=0.03,{door}={outside[door]}") for door in doors]
    tasks = ("--tasks", "toy_gen,toy_mc", "--limit", "2")
    sweep(options(checkpoint, *tasks, *sum(points, ()), trace_dir="traces"))
    found = blocks(Path.cwd())
    assert len({block["fingerprint"] for block in found.values()}) == len(doors)
    for door in doors:
        (block,) = [block for name, block in found.items() if f"{door}=" in name]
        assert in_settings(block["settings"], door) == outside.named(door)
    capsys.readouterr()
    assert report(["out", "--verify"]) == 0
    assert " 0 do not match" in capsys.readouterr().out
    table = to_markdown(build(load([Path("out")])))
    assert all(outside.named(door) in table for door in doors)
    assert report(["out", "--output_path", "page", "--columns", outside["report_column"]]) == 0
    columns = json.loads(Path("page/leaderboard.json").read_text())["columns"]
    assert columns == {"quality_lost": outside.named("report_column")}


@pytest.mark.parametrize("door", ["confidence", "skipped_state", "layers"])
def test_a_certificate_names_what_it_is_for(door: str, outside: Outside, checkpoint: Path) -> None:
    rows = [{"question": f"{n}+1", "answer": "x", "choices": ["x", "y"]} for n in range(300)]
    Path("rows.jsonl").write_text("".join(json.dumps(row | {"gold": 0}) + "\n" for row in rows))
    certificate: Certificate = certify(
        options(
            checkpoint,
            *("--tasks", "toy_gen", "--data", "rows.jsonl", "--num_fewshot", "0"),
            *("--thresholds", "1", "--risk", "0.1"),
            *("--batch_size", "64", "--gen_kwargs", "max_gen_toks=1"),
            **{door: outside[door]},
        )
    )
    setting = certificate.setting
    known = setting.arguments["layers"] if door == "layers" else getattr(setting, door)
    assert known == outside.named(door)


def test_certify_refuses_a_rule_in_one_line(outside: Outside, checkpoint: Path) -> None:
    """A certificate is for one threshold at every exit."""
    given = options(
        checkpoint, "--tasks", "toy_gen", "--data", "x.jsonl", exit_rule=outside["exit_rule"]
    )
    with pytest.raises(SettingError, match="one threshold at every exit"):
        certify(given)


@pytest.mark.parametrize("door", ["skipped_state", "layers"])
def test_headroom_evaluates_what_is_given(door: str, outside: Outside, checkpoint: Path) -> None:
    headroom(options(checkpoint, "--tasks", "toy_gen", "--limit", "2", **{door: outside[door]}))
    (file,) = Path("out").glob("*/headroom.json")
    assert json.loads(file.read_text())["settings"][door] == outside.named(door)


@pytest.mark.parametrize("door", ["confidence", "exit_rule"])
def test_headroom_refuses_what_decides(door: str, outside: Outside, checkpoint: Path) -> None:
    """Its policy is the oracle."""
    with pytest.raises(SettingError, match="the oracle policy has none"):
        headroom(options(checkpoint, "--tasks", "toy_gen", **{door: outside[door]}))


def write_records(folder: Path) -> None:
    """Records of the three tasks that no sample has, and prompts to train on."""
    own = Path(dynamax_lm.__file__).parent / "tasks"
    samples = {
        "triviaqa_validation": "triviaqa/sample",
        "coqa_validation": "coqa/sample",
        "truthfulqa_gen_validation": "truthfulqa/sample_gen",
    }
    for name, sample in samples.items():
        lines = (own / f"{sample}.jsonl").read_text(encoding="utf-8").splitlines()[:8]
        records = [json.loads(line) for line in lines]
        for record in records:
            key = "story" if record.get("story") else "question"
            record[key] = f"New: {record[key]}"
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    prompts = [{"prompt": f"Q: What is {n}?\nA:", "answer": " a number"} for n in range(6)]
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))


@pytest.mark.parametrize("layers", [False, True])
def test_the_benchmark_of_criteria_compares_them(
    layers: bool, outside: Outside, checkpoint: Path
) -> None:
    write_records(Path.cwd())
    more = f",layers={outside['layers']}" if layers else ""
    state = [] if layers else ["--skipped_state", outside["skipped_state"]]
    with torch.random.fork_rng():
        criteria(
            [
                *("--model", "dynamax-mistral", "--device", "cpu", "--exit_layers", "1+2+3"),
                *("--model_args", f"pretrained={checkpoint},dtype=float32{more}", *state),
                *("--eval_data", ".", "--train_data", "train.jsonl", "--output_path", "study"),
                *("--measures", outside["confidence"], "--kinds", "--plain_kinds"),
                *("--translator_steps", "1", "--translator_tokens", "8", "--grid_step", "2"),
                *("--attribute", "top_prob", "--engine_documents", "2"),
            ]
        )
    results = json.loads(Path("study/results.json").read_text())
    assert outside.named("confidence") in Path("study/table.md").read_text()
    if layers:
        assert results["facts"]["outside_layers"] == outside.named("layers")
        assert results["facts"]["layers"] == 8, "twice the checkpoint's own"
    else:
        assert results["facts"]["skipped_state"] == outside.named("skipped_state")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("exit_rule=calm_decay", "exit rules are not"),
        ("exit_rule_args={}", "exit rules are not"),
        ("threshold=0.9", "exit rules are not"),
        ("confidence=margin", "--measures"),
        ("skipped_state=copy_kv", "--skipped_state"),
        ("mode=lossless", "full depth's"),
    ],
)
def test_the_benchmark_of_criteria_refuses_what_it_would_ignore(
    given: str, said: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path)
    with pytest.raises(SettingError, match=said) as caught:
        criteria(
            [
                *("--model", "dynamax-mistral", "--model_args", f"pretrained={checkpoint},{given}"),
                *("--eval_data", ".", "--train_data", "train.jsonl", "--output_path", "study"),
            ]
        )
    assert given.partition("=")[0] in str(caught.value)
