"""Training prompts from tasks: theirs, without what an evaluation uses, and grouped."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train.documents import Layout
from dynamax_lm.heads.train.options import read_options
from dynamax_lm.heads.train.prompts import main
from tests.quick import only_toys_alone

YAML = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {train}
    test: {test}
{splits}
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: answer
generation_kwargs:
  until: ["\\n"]
metric_list:
  - metric: exact_match
"""


def _rows(numbers: range, passage: bool = False) -> list[dict[str, Any]]:
    return [
        {"question": f"what is {n}?", "answer": str(n)}
        | ({"passage": f"a story {n // 3}"} if passage else {})
        for n in numbers
    ]


def _task(folder: Path, name: str, train: list[dict[str, Any]], trains: bool = True) -> None:
    files = {"train": train, "test": _rows(range(5))}
    for split, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}_{split}.jsonl").write_text(lines)
    splits = "training_split: train\n" * trains + "test_split: test"
    text = YAML.format(
        name=name,
        train=folder / f"{name}_train.jsonl",
        test=folder / f"{name}_test.jsonl",
        splits=splits,
    )
    (folder / f"{name}.yaml").write_text(text)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    only_toys_alone(monkeypatch)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    _task(tmp_path, "plain", _rows(range(3, 12)))
    _task(tmp_path, "stories", _rows(range(30, 42), passage=True))
    _task(tmp_path, "untrained", _rows(range(3)), trains=False)
    return tmp_path


def _run(tasks: Path, names: str, *more: str) -> list[dict[str, str]]:
    out = tasks / "prompts.jsonl"
    main(["--tasks", names, "--include_path", str(tasks), "--output_path", str(out), *more])
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_prompts_are_the_tasks_own_and_none_is_evaluated(tasks: Path) -> None:
    found = _run(tasks, "plain,stories")
    asked = {int(re.findall(r"what is (\d+)", one["prompt"])[-1]) for one in found}
    assert asked == set(range(5, 12)) | set(range(30, 42)), "0 to 4 are evaluated"
    for one in found:
        number = re.findall(r"\d+", one["prompt"])[-1]
        assert one["prompt"] == f"Question: what is {number}?\nAnswer:"
        assert one["answer"] == f" {number}"
        document = Layout(group_by="group").document(one, "here")
        assert document.prompt == one["prompt"]
        assert document.group.endswith(one["group"])
        assert one["until"] == ["\n"], "what ends the task's answers"
        assert document.until == ("\n",)


@pytest.mark.parametrize(("until", "kept"), [('["", "\\n"]', ["\n"]), ('[""]', None), ('""', None)])
def test_an_empty_stop_is_left_out(tasks: Path, until: str, kept: list[str] | None) -> None:
    file = tasks / "plain.yaml"
    file.write_text(file.read_text().replace('until: ["\\n"]', f"until: {until}"))
    found = _run(tasks, "plain")
    assert found
    for one in found:
        assert one.get("until") == kept
        Layout(group_by="group").document(one, "here")  # head training takes it


def test_one_passage_is_one_group(tasks: Path) -> None:
    found = _run(tasks, "stories")
    groups: dict[str, set[int]] = {}
    for one in found:
        number = int(re.findall(r"\d+", one["prompt"])[-1])
        groups.setdefault(one["group"], set()).add(number // 3)
    assert len(groups) == 4
    assert all(len(stories) == 1 for stories in groups.values())


def test_the_next_command_is_one_that_runs(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tasks, "plain")
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[:3] == ["python", "-m", "dynamax_lm.heads.train"]
    options = read_options(words[3:])
    assert options.data == str(tasks / "prompts.jsonl")
    assert options.group_by == "group"


def test_a_limit_is_a_draw_of_the_seed(tasks: Path) -> None:
    first, again = (_run(tasks, "plain", "--limit", "4", "--seed", "1") for _ in range(2))
    other = _run(tasks, "plain", "--limit", "4", "--seed", "2")
    assert len(first) == 4
    assert first == again != other


@pytest.mark.parametrize(
    ("names", "more", "line"),
    [
        ("untrained", (), "no training documents"),
        ("nothing_of_the_kind", (), "nothing_of_the_kind"),
        ("plain", ("--output_path", "."), "this is a folder"),
    ],
)
def test_a_wrong_value_is_one_line(
    tasks: Path, names: str, more: tuple[str, ...], line: str
) -> None:
    with pytest.raises(SettingError, match=line):
        _run(tasks, names, *more)
