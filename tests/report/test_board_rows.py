"""Rows: what was measured, under which name, and what may be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.decoders.checkpoint import ATTENTION, resolve_name
from dynamax_lm.harness.certified import certificate_block
from dynamax_lm.harness.setup import setting_from
from dynamax_lm.report.leaderboard import build
from dynamax_lm.report.load import load
from dynamax_lm.report.rows import checkpoint_of, comparison_groups, kind_of, rows_of, static_depth
from tests.certify.certificates import make_certificate, make_setup, make_task

ONE = {"gen": GENERATION}
CERTIFIED = {
    **{"weights": "0a0b", "checkpoint": {"config": "0c0d"}, "arguments": {}},
    **{"heads": "some", "heads_fingerprint": "ab12", "threshold": 0.95},
}


def test_a_row_holds_what_the_results_say(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    (row,) = rows_of(load([tmp_path]).runs)
    table = made.data()["results"]["gen"]
    assert row.quality == (table["em,none"], table["em_stderr,none"])
    for name in ("layers_used", "flops_saved", "flops_saved_total", "agreement", "consistency"):
        assert getattr(row, name) == (table[f"{name},none"], table[f"{name}_stderr,none"])
    assert row.full_depth == (table["full_depth_em,none"], table["full_depth_em_stderr,none"])


@pytest.mark.parametrize(
    ("settings", "kind", "depth"),
    [
        ({}, "dynamic", None),
        ({"threshold": 0}, "static", 3),
        ({"confidence": "oracle"}, "oracle", None),
        ({"mode": "full", "exit_layers": []}, "full", None),
        ({"mode": "lossless"}, "lossless", None),
        ({"mode": "full", "exit_layers": [], "prompt_exit": 2}, "dynamic", None),
        ({"threshold": 0, "prompt_exit": 2}, "dynamic", None),
    ],
)
def test_kinds(tmp_path: Path, settings: dict[str, object], kind: str, depth: int | None) -> None:
    write_run(tmp_path, Plan(settings=settings))
    (run,) = load([tmp_path]).runs
    assert (kind_of(run), static_depth(run)) == (kind, depth)


def test_runs_of_other_prompt_exits_have_rows_apart(tmp_path: Path) -> None:
    full = {"mode": "full", "exit_layers": []}
    plans = [{}, {"prompt_exit": 2}, {"prompt_exit": 4}, full, full | {"prompt_exit": 2}]
    maps = {"prompt_maps": "some/maps", "prompt_maps_fingerprint": "0123456789"}
    plans.append(full | {"prompt_exit": 2} | maps)
    for number, settings in enumerate(plans):
        write_run(tmp_path / str(number), Plan(tasks=ONE, settings=settings))
    names = {row.setting for row in rows_of(load([tmp_path]).runs)}
    exits = "top_prob ≥ 0.5, exits 3+5, propagate"
    early = {f"{exits}, prompts exit at {layer}" for layer in (2, 4)}
    early.add("full-depth answers, prompts exit at 2 with maps maps (0123)")
    assert names == {exits, *early, "full depth", "full-depth answers, prompts exit at 2"}


def test_a_plain_run_has_a_row_without_depths(tmp_path: Path) -> None:
    write_plain(tmp_path, Plan(tasks=ONE))
    (row,) = rows_of(load([tmp_path]).runs)
    assert (row.kind, row.checkpoint, row.quality.mean) == ("plain", "org/model", 0.5)
    assert row.layers_used is row.flops_saved is row.full_depth is None


def test_the_newest_of_equal_settings_is_shown(tmp_path: Path) -> None:
    for date, gain in ((2.0, 0.5), (1.0, 0.0)):
        write_run(tmp_path / str(date), Plan(tasks=ONE, date=date, gain=gain))
    (row,) = rows_of(load([tmp_path]).runs)
    assert row.run.date == 2.0


def test_only_equal_conditions_are_held_against_each_other(tmp_path: Path) -> None:
    plans = [Plan(threshold=0.5), Plan(threshold=0.6), Plan(threshold=0.7, few_shot=2)]
    for number, plan in enumerate(plans):
        plan.tasks = ONE
        write_run(tmp_path / str(number), plan)
    groups = comparison_groups(rows_of(load([tmp_path]).runs))
    assert sorted(len(group) for group in groups) == [1, 2]


def test_a_run_without_samples_joins_the_others_only_where_it_can_be_one_of_them(
    tmp_path: Path,
) -> None:
    for name, plan in {"a": Plan(), "b": Plan(threshold=0.6), "c": Plan(threshold=0.7)}.items():
        plan.tasks = ONE
        made = write_run(tmp_path / name, plan)
        if name == "b":
            data = made.data()
            del data["task_hashes"]
            made.change(data)
    assert [len(group) for group in comparison_groups(rows_of(load([tmp_path]).runs))] == [3]
    write_run(tmp_path / "d", Plan(threshold=0.8, tasks=ONE, salt="x"))
    groups = comparison_groups(rows_of(load([tmp_path]).runs))
    assert sorted(len(group) for group in groups) == [1, 1, 2]


def test_runs_of_other_heads_or_arguments_do_not_replace_each_other(tmp_path: Path) -> None:
    ran = [
        {"heads": "a/mamba", "heads_fingerprint": "ab12"},
        {"heads": "b/mamba", "heads_fingerprint": "cd34"},
        {"heads": "b/mamba", "heads_fingerprint": "cd34", "arguments": {"max_length": "64"}},
    ]
    for number, settings in enumerate(ran):
        write_run(tmp_path / str(number), Plan(tasks=ONE, settings=settings, date=float(number)))
    found = [row.setting for row in rows_of(load([tmp_path]).runs)]
    assert len(set(found)) == 3


FULL = {"mode": "full", "exit_layers": []}


@pytest.mark.parametrize(
    "other",
    [
        {"arguments": {"max_length": "32"}},
        {"dtype": "torch.bfloat16"},
        {"arguments": {"peft": "adapter"}},
        {"weights": "1" * 16},
        {"checkpoint": {"config": "0" * 16, "tokenizer": "2" * 16}},
    ],
    ids=["limits", "number format", "adapters", "weights", "tokenizer"],
)
def test_runs_of_other_weights_formats_or_limits_have_rows_apart(
    tmp_path: Path, other: dict[str, object]
) -> None:
    """Full-depth runs, and dynamic ones with the static ones that they are compared with."""
    kinds: list[dict[str, object]] = [FULL, {"threshold": 0}, {}]
    for name, more in (("one", {}), ("other", other)):
        for number, settings in enumerate(kinds):
            write_run(tmp_path / name / str(number), Plan(tasks=ONE, settings=settings | more))
    rows = rows_of(load([tmp_path]).runs)
    assert len(rows) == len({row.name for row in rows}) == 6
    groups = comparison_groups(rows)
    assert [len(group) for group in groups] == [3, 3]
    assert {len({row.run.path.parts[-3] for row in group}) for group in groups} == {1}
    board = build(load([tmp_path]))
    for entry in board.entries:
        mixed = [row for one in entry.baselines for row, _ in one.mixture if row is not None]
        assert {row.run.path.parts[-3] for row in mixed} <= {entry.row.run.path.parts[-3]}


def test_plain_runs_with_other_arguments_have_rows_apart(tmp_path: Path) -> None:
    given = ["", ",max_length=32", ",peft=adapter", ",batch_size=4,device=cpu,revision=main"]
    for number, more in enumerate(given):
        path = write_plain(tmp_path / str(number), Plan(tasks=ONE, date=float(number)))
        path.write_text(path.read_text().replace("dtype=float32", f"dtype=float32{more}"))
    names = {row.name for row in rows_of(load([tmp_path]).runs)}
    assert names == {
        "org/model: full depth (hf)",
        "org/model: full depth (hf), max_length=32",
        "org/model, peft=adapter: full depth (hf)",
    }


def test_a_run_that_does_not_say_its_number_format_joins_those_of_one(tmp_path: Path) -> None:
    write_run(tmp_path / "ours", Plan(tasks=ONE))
    path = write_plain(tmp_path / "plain", Plan(tasks=ONE))
    path.write_text(path.read_text().replace('"model_dtype": "torch.float32", ', ""))
    assert [len(group) for group in comparison_groups(rows_of(load([tmp_path]).runs))] == [2]


def test_the_embedded_model_has_one_name_by_both_doors(tmp_path: Path) -> None:
    made = write_run(tmp_path / "ours", Plan(tasks=ONE, settings={"pretrained": "tiny"}))
    path = write_plain(tmp_path / "plain", Plan(tasks=ONE))
    folder = resolve_name("tiny", ATTENTION)
    path.write_text(path.read_text().replace("org/model", folder))
    runs = load([made.results, path]).runs
    assert {checkpoint_of(run) for run in runs} == {"tiny/mistral"}


def test_a_certificate_speaks_for_its_own_tasks_alone(tmp_path: Path) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE, settings=CERTIFIED))
    data = made.data()
    (task,) = data["results"]
    setup = make_setup(name=task)
    settings = data["config"]["early_exit"]["settings"]
    certificate = make_certificate(task=make_task(setup=setup), setting=setting_from(settings))
    found = certificate_block(certificate.to_json(), settings, {task: setup})
    assert found is not None
    yes = {"applies": {task: {"certified": True, "reason": None}}}
    no = {"applies": {task: {"certified": False, "reason": "not certified here: why"}}}
    unborne = "not certified here: the results file does not bear out its certificate"
    for written, shown in [
        (None, ""),
        (found, f"agreement loss ≤ {certificate.risk} with probability {1 - certificate.delta:g}"),
        (found | {"applies": {"another": {"certified": True}}}, "not certified here"),
        (found | no, "not certified here: why"),
        (found | {"risk": 0.001}, unborne),
        (found | {"setups": {task: make_setup(name=task, version="2").to_json()}}, unborne),
        ({name: found[name] for name in found if name != "setups"}, unborne),
        ({"metric": "agreement", "risk": 0.05, "delta": 0.1} | yes, unborne),
    ]:
        data["config"]["early_exit"]["certificate"] = written
        made.change(data)
        (row,) = rows_of(load([tmp_path]).runs)
        assert row.certificate == shown
