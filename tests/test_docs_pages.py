"""Pages and files around the code: their commands are understood, their links lead somewhere."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval._cli.run import Run
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

import dynamax_lm
from dynamax_lm.decoders.families import FAMILIES
from dynamax_lm.settings import OUR_NAMES, parse_settings
from scripts.docs_site import (
    COMMANDS,
    COMMANDS_PAGE,
    PAGES_OUTSIDE,
    as_markdown,
    commands_page,
    loads_from_elsewhere,
    navigation,
    parser_of,
    places,
)
from tests.checkpoints import save_checkpoint
from tests.quick import only_toys_alone

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/validity/*.md")]
COMING_FROM = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
ARGUMENTS = re.findall(r"^    --model_args (\S+)$", COMING_FROM, re.MULTILINE)


def test_examples_of_docstrings_are_code_on_their_page() -> None:
    """Outside of blocks of code, Markdown would run the lines of an example together."""
    for name in set(dynamax_lm.__all__) - {"__version__"}:
        text = inspect.getdoc(getattr(dynamax_lm, name)) or ""
        shown = as_markdown(text)
        blocks = re.findall(r"^```pycon\n(.*?)^```$", shown, re.DOTALL | re.MULTILINE)
        assert sum(block.count(">>>") for block in blocks) == text.count(">>>") > 0
        assert not re.search(r":\w+:`", shown)
        assert all(paragraph.strip() for block in blocks for paragraph in block.split("\n\n"))


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


def test_every_page_has_one_place_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    written = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    made = [*PAGES_OUTSIDE.values(), COMMANDS_PAGE]
    assert sorted(places(navigation(site["nav"]))) == sorted([*written, *made])
    assert "early-exit.md" in set(places(site["nav"]))
    assert navigation([])[-1] == {"More": sorted(written)}, "a new page is listed last"


@pytest.mark.parametrize(
    ("text", "elsewhere"),
    [
        ('<a href="https://example.org">a link</a> <img src="pictures/a.png">', False),
        ('<link rel="stylesheet" href="https://fonts.example.org/css">', True),
        ('<script src="//example.org/a.js"></script>', True),
        ("@font-face { src: url(https://example.org/a.woff2) }", True),
    ],
)
def test_what_a_page_would_load_is_told_from_what_it_links(text: str, elsewhere: bool) -> None:
    assert loads_from_elsewhere(text) is elsewhere


def test_the_page_of_commands_has_every_option_with_its_text() -> None:
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", commands_page(), re.M | re.S))
    shared = sections.pop("Options of `lm_eval run`")
    for name in COMMANDS:
        section = sections[f"`python -m {name}`"]
        for action in parser_of(name)._actions:
            for option in action.option_strings:
                assert f"`{option}`" in section + shared or action.dest == "help", option
            plain = re.sub(r"\\(.)", r"\1", section + shared)
            text = " ".join((action.help or "").replace("%%", "%").split())
            assert action.dest == "help" or text in plain


def test_the_reference_has_every_exported_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: dynamax_lm\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(set(dynamax_lm.__all__) - {"__version__"})


def commands() -> Iterator[tuple[str, str]]:
    """Whole commands of the pages, continued lines joined; abridged ones left out."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(
            r"^ *((?:lm_eval --|python -m dynamax_lm\.).*)$", text, re.MULTILINE
        ):
            if not re.search(r"…|\.\.\.", line):
                yield page.name, line


@pytest.mark.parametrize(("page", "line"), [pytest.param(*one, id=one[0]) for one in commands()])
def test_a_command_of_a_page_is_understood(page: str, line: str) -> None:
    words = shlex.split(line.replace("$'", "'"), comments=True)
    if words[0] == "lm_eval":
        parser = Run(argparse.ArgumentParser().add_subparsers())._parser
        options, unknown = parser.parse_known_args(words[1:])
        assert not unknown
    else:
        options = parser_of(words[2]).parse_args(words[3:])
    given = getattr(options, "model_args", None) or {}
    if isinstance(given, str):
        given = simple_parse_args_string(given)
    if str(getattr(options, "model", "")).startswith("dynamax"):
        ours = OUR_NAMES & set(given) - {"heads"}
        parse_settings({name: given[name] for name in ours if given[name] != "certified"})


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    compile(second, "python.md", "exec")
    exec(compile(first, "python.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_the_readme_is_one_screen_and_the_gate_runs_its_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 80
    assert readme.count("![") == 1
    targets = re.findall(r"^    make (\w+)", readme, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}: ", makefile, re.MULTILINE) for target in targets)
    assert re.search(r"^make VENV=\S+ test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_the_readme_says_how_many_families_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(\d+) model types", readme) == [str(len(FAMILIES))]


def test_the_citation_names_version_and_licence() -> None:
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert known["version"] == dynamax_lm.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (
        re.findall(r"^## (\d\S+) - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)[0] == known["version"]
    )
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
