"""Which documents a certification tests: their files, columns, units and draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.certify.cli import main
from dynamax_lm.certify.tasks import ChosenTask, choose_documents, read_data
from dynamax_lm.common.errors import SettingError
from dynamax_lm.models.lm import DynamaxMamba
from tests.certify.command import DOCUMENTS, TOYS, Run, no_model, sums, task_over, write

pytestmark = pytest.mark.usefixtures("toys_alone")


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
    monkeypatch.setattr(DynamaxMamba, "__init__", no_model)
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
    monkeypatch.setattr(DynamaxMamba, "__init__", no_model)
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


@pytest.mark.parametrize(
    ("given", "names", "wanted"),
    [
        (None, ["a", "b"], {}),
        (["one"], ["a"], {"a": "one"}),
        (["x=one"], ["a"], {"a": "x=one"}),
        (["a=one"], ["a"], {"a": "one"}),
        (["b=two", "a=x=one"], ["a", "b"], {"a": "x=one", "b": "two"}),
    ],
)
def test_each_task_has_its_file(
    given: list[str] | None, names: list[str], wanted: dict[str, str]
) -> None:
    assert read_data(given, names) == {name: Path(file) for name, file in wanted.items()}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["one"], "--data a=FILE b=FILE"),
        (["a=one"], "no file for b"),
        (["a=one", "b=two", "c=three"], "data=c=three"),
        (["a=one", "a=two"], "data=a=two"),
        (["a=one", "two"], "data=two"),
    ],
)
def test_a_file_for_no_task_and_a_task_without_one_are_refused(
    given: list[str], named: str
) -> None:
    with pytest.raises(SettingError) as caught:
        read_data(given, ["a", "b"])
    assert named in str(caught.value)


def test_several_tasks_are_certified_together_on_a_file_each(folder: Path, tmp_path: Path) -> None:
    """A threshold passes only where each task's own test passes."""
    first = write(tmp_path / "first.jsonl", sums(DOCUMENTS))
    second = write(tmp_path / "second.jsonl", sums(2 * DOCUMENTS)[DOCUMENTS:])
    options = [
        *("--model", "dynamax-mamba", "--include_path", TOYS, "--device", "cpu"),
        *("--model_args", f"pretrained={folder},exit_layers=1+2+3,dtype=float32"),
        *("--gen_kwargs", "max_gen_toks=2", "--num_fewshot", "0", "--batch_size", "64"),
        *("--thresholds", "1,0.2", "--risk", "0.1", "--output_path", str(tmp_path / "out")),
    ]
    alone = {
        name: main([*options, "--tasks", name, "--data", str(file)])
        for name, file in (("toy_gen", first), ("toy_mc", second))
    }
    files = [f"toy_gen={first}", f"toy_mc={second}"]
    both = main([*options, "--tasks", "toy_gen,toy_mc", "--data", *files])
    assert [task.data for task in both.tasks] == ["first.jsonl", "second.jsonl"]
    for number, name in enumerate(("toy_gen", "toy_mc")):
        assert both.tasks[number] == alone[name].tasks[0]
        for point, own in zip(both.grid, alone[name].grid, strict=False):
            assert point.outcomes[number] == own.outcomes[0]
    for place, point in enumerate(both.grid):
        assert point.p_value == max(one.grid[place].p_value for one in alone.values())
