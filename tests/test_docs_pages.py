"""Pages and files around the code: their commands are understood, their links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

import dynamax_lm
from dynamax_lm.models.settings import OUR_NAMES, parse_settings
from tests.checkpoints import save_checkpoint
from tests.quick import only_toys_alone

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/validity/*.md")]
COMING_FROM = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
ARGUMENTS = re.findall(r"^    --model_args (\S+)$", COMING_FROM, re.MULTILINE)


def test_every_project_has_arguments() -> None:
    sections = COMING_FROM.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [
        *("LayerSkip", "CALM", "EE-LLM and EE-Tuning", "DeeBERT, PABEE and BERxiT"),
        *("tuned-lens", "SpecEE"),
    ]
    assert all("    --model_args " in section for section in sections)


@pytest.mark.parametrize("text", ARGUMENTS)
def test_arguments_of_the_page_are_understood(text: str) -> None:
    given = simple_parse_args_string(text)
    assert set(given) - {"pretrained"} <= OUR_NAMES
    heads = {"heads"} & set(given)
    parse_settings({name: given[name] for name in OUR_NAMES & set(given) - heads})


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_citation_names_version_and_licence() -> None:
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert known["version"] == dynamax_lm.__version__
    assert known["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(known)


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name
)
def test_files_of_the_host_are_yaml(path: Path) -> None:
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(known, dict)
    if path.parent.name == "workflows":
        for job in known["jobs"].values():
            runs = [step["run"] for step in job["steps"] if "run" in step]
            assert runs
            for file in re.findall(r"bash (\S+)", " ".join(runs)):
                assert (ROOT / file).is_file()


def test_the_task_of_the_guide_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_toys_alone(monkeypatch)
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ((name, text),) = re.findall(r"```yaml\n# (\w+)\.yaml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / f"{name}.yaml").write_text(text)
    rows = [{"country": country, "capital": "x"} for country in ("France", "Peru")]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = dynamax_lm.load(
        str(save_checkpoint(tmp_path / "model", "mistral")), dtype="float32", threshold=0.02
    )
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(model=model.lm, tasks=[name], task_manager=manager)
    assert results is not None
    values = results["results"][name]
    assert 1 <= values["layers_used,none"] <= 4
    assert values["exact_match,none"] == 0
    prompts = [one["arguments"][0][0] for one in results["samples"][name]]
    assert prompts == [
        f"Question: What is the capital of {row['country']}?\nAnswer:" for row in rows
    ]
