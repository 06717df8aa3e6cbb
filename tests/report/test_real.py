"""A real run of the embedded model: every number follows from its samples and traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.validity.run_folder import logged_run
from dynamax_lm.harness.plugin.task_folder import own_tasks
from dynamax_lm.report.__main__ import main
from dynamax_lm.report.load import Library, load
from dynamax_lm.report.tokens import token_page
from dynamax_lm.report.tokentext import TokenTexts
from dynamax_lm.report.verify import verify

TASKS = ("dynamax_coqa_sample", "dynamax_truthfulqa_mc1_sample")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results as ``lm_eval --log_samples`` writes them, by the same two calls."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        patch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)
        logged_run(folder, TASKS, own_tasks(), {"threshold": 0.5}, limit=2)
    return folder


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    return load([folder])


def test_every_number_of_a_real_run_is_recomputed(library: Library) -> None:
    found = verify(library)
    assert (found.mismatches, library.problems) == ([], [])
    left = ("takes the model", "no manifest", "the task's own code", "another release of")
    assert [line for line in found.unchecked if not any(why in line for why in left)] == []
    assert found.checked > 100


def test_the_tokens_of_a_real_answer_join_to_its_text(library: Library) -> None:
    (run,) = library.runs
    page = token_page(library, run, TASKS[0], TokenTexts())
    assert page is not None
    assert page.texts
    for sample, document in zip(library.samples(run, TASKS[0]) or [], page.documents, strict=True):
        (answer,) = document["answers"]
        text = "".join(token[0] for token in answer["tokens"])
        assert text.startswith(sample.responses[0][0].rstrip())


def test_a_report_of_a_real_run_is_written(folder: Path, tmp_path: Path) -> None:
    assert main([str(folder), "--output_path", str(tmp_path), "--verify"]) == 0
    assert len(list((tmp_path / "tokens").iterdir())) == len(TASKS)
