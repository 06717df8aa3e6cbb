"""The command from end to end, held against separate lm-eval runs that leave at one layer."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from PIL import Image

from dynamax_lm.common.errors import SettingError
from dynamax_lm.headroom.__main__ import main
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
from tests.checkpoints import save_checkpoints
from tests.heads.builders import maps_of

pytestmark = pytest.mark.usefixtures("toys_alone")

TOYS = str(Path(__file__).parent / "toys")
TASKS = ["toy_letter", "toy_first"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_checkpoints(tmp_path_factory, ("mistral", "mamba2"))


def headroom(
    checkpoint: Path, output: Path, *more: str, kind: str = "mistral", args: str = ""
) -> dict[str, Any]:
    model = "dynamax-mamba" if kind == "mamba2" else "dynamax-mistral"
    main(
        [
            *("--model", model, "--model_args", f"pretrained={checkpoint},dtype=float32{args}"),
            *("--tasks", ",".join(TASKS), "--include_path", TOYS, "--batch_size", "3"),
            *("--device", "cpu", "--output_path", str(output), *more),
        ]
    )
    (file,) = output.glob("*/headroom.json")
    return dict(json.loads(file.read_text()))


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_agreement_by_layer_is_what_lm_eval_reports_for_runs_that_leave_there(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    found = headroom(checkpoints[kind], tmp_path, kind=kind)
    by_task = {group["name"]: group for group in found["groups"]}
    assert list(by_task) == [*TASKS, "all tasks"]
    cls = DynamaxMamba if kind == "mamba2" else DynamaxMistral
    lm = cls(pretrained=str(checkpoints[kind]), dtype="float32", device="cpu", batch_size=2)
    manager = TaskManager(include_path=TOYS, include_defaults=False)
    seen = set()
    for number in (1, 2, 3):
        lm.change(exit_layers=number, threshold=0)
        results = simple_evaluate(
            model=lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0
        )
        for task in TASKS:
            theirs = _agreement(results, task)
            (ours,) = [one for one in by_task[task]["layers"] if one["layer"] == number]
            assert ours["agreement"]["value"] == pytest.approx(theirs, abs=1e-9)
            seen.add(theirs)
    assert len(seen) > 1, "agreements must differ for this to mean anything"


def _agreement(results: dict[str, Any], task: str) -> float:
    """Of the documents to which full depth answers with text; one-token answers have no stop.

    An exit may emit white space, which is no text, where full depth's one token is: the run then
    has no agreement of the document's text, and headroom counts it.
    """
    samples = results["samples"][task]
    if task == "toy_first":
        told = [s for s in samples if s["resps"][0][0].record.reference.strip()]
        return statistics.mean(sample["agreement_with_stop"] for sample in told)
    mean: float = results["results"][task]["agreement,none"]
    return mean


def test_prompts_that_exit_are_what_lm_eval_reports_for_such_runs(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Answers of one token: no error is behind the token that is compared."""
    lm = DynamaxMistral(pretrained=str(checkpoints["mistral"]), dtype="float32", device="cpu")
    maps = str(tmp_path / "maps")
    maps_of(lm.model, 1).save(Path(maps), "")
    options = ("--prompt_exits", "1,3", "--prompt_maps", maps)
    found = headroom(checkpoints["mistral"], tmp_path / "out", *options)
    manager = TaskManager(include_path=TOYS, include_defaults=False)
    for column, (layer, name) in enumerate([(1, None), (3, None), (1, maps)]):
        lm.change(mode="full", prompt_exit=layer, prompt_maps=name)
        results = simple_evaluate(
            model=lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0
        )
        for group in found["groups"][:-1]:
            ours = group["prompts"][column]
            assert (ours["layer"], ours["maps"]) == (layer, name)
            theirs = _agreement(results, group["name"])
            assert ours["agreement"]["value"] == pytest.approx(theirs, abs=1e-9)
            saved = results["results"][group["name"]]["flops_saved_total,none"]
            assert ours["saved"]["value"] == pytest.approx(saved, abs=0.02)
    assert list(found["settings"]["prompt_maps"]) == [maps]
    (page,) = tmp_path.glob("out/*/headroom.md")
    assert "## Prompts that exit" in page.read_text("utf-8")
    with pytest.raises(SettingError, match=r"--prompt_exits 4: give layers in 1\.\.3"):
        headroom(checkpoints["mistral"], tmp_path, "--prompt_exits", "4")


def test_the_oracle_of_one_exit_is_the_engines_oracle(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """One answer token each: depth, saving and agreement of a run with confidence=oracle."""
    found = headroom(checkpoints["mistral"], tmp_path, args=",exit_layers=2")
    lm = DynamaxMistral(
        pretrained=str(checkpoints["mistral"]),
        dtype="float32",
        device="cpu",
        exit_layers=2,
        confidence="oracle",
        threshold=0.5,
    )
    manager = TaskManager(include_path=TOYS, include_defaults=False)
    results = simple_evaluate(model=lm, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    for group in found["groups"][:-1]:
        theirs = results["results"][group["name"]]
        free = group["free"]
        assert free["layers_used"]["value"] == pytest.approx(theirs["layers_used,none"])
        assert free["saved"]["value"] == pytest.approx(theirs["flops_saved,none"])


def test_a_report_is_a_table_a_picture_and_json(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = headroom(checkpoints["mistral"], tmp_path, "--limit", "6", "--worthwhile", "0.9")
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        *("headroom.json", "headroom.md", "headroom.png", "headroom.svg")
    ]
    text = (folder / "headroom.md").read_text()
    printed = capsys.readouterr()
    assert text in printed.out
    assert " requests: under a minute" in printed.err
    assert "Computing savings and intervals of " in printed.err
    assert "not worth it" in text
    assert all(task in text for task in TASKS)
    assert found["groups"][-1]["verdict"]["level"] == "not worth it"
    assert found["groups"][-1]["documents"] == 12
    assert found["settings"]["candidates"] == [1, 2, 3]
    with Image.open(folder / "headroom.png") as picture:
        assert picture.width > 1000
    assert "<svg" in (folder / "headroom.svg").read_text()


@pytest.mark.parametrize(
    ("more", "args", "told"),
    [
        (("--worthwhile", "5"), "", "--worthwhile 5"),
        ((), ",exit_layers=9", "exits lie in 1..3"),
        ((), ",exit_layers=some", "exit_layers=some"),
        ((), ",skipped_state=freeze", "silent hole"),
        ((), ",heads=somewhere", "headroom evaluates untrained exits"),
        ((), ",threshold=0.5", "the oracle policy has none"),
        ((), ",prompt_exit=2", "prompt_exit=2: exits are evaluated after full-depth prompts"),
        ((), ",prompt_maps=x", "prompt_maps=x: .* give --prompt_maps"),
        (("--prompt_maps", "./nowhere"), "", "prompt_maps=./nowhere: no such folder"),
        (("--tasks", "no_such_task"), "", "no_such_task"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    more: tuple[str, ...], args: str, told: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        headroom(checkpoints["mistral"], tmp_path, *more, args=args)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
