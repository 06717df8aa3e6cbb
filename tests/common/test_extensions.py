"""Classes from files and entry points: what is run, what it is called, and every refusal."""

from __future__ import annotations

import hashlib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dynamax_lm.common import extensions
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.extensions import (
    installed,
    load,
    read_reference,
    source_digest,
    without_digest,
)

GROUP = "dynamax_lm.nothing"
SOURCE = "class Ours:\n    number = 3\n\n\ncount = 7\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.py"
    path.write_text(SOURCE)
    return path


def taken(text: str) -> extensions.Extension:
    reference = read_reference(text, GROUP)
    assert reference is not None
    return load("confidence", reference, GROUP)


def refused(text: str, *words: str) -> None:
    with pytest.raises(SettingError) as caught:
        taken(text)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    for word in (*words, "confidence="):
        assert word in line


def test_a_name_is_the_file_the_class_and_the_digest_of_the_content(file: Path) -> None:
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()[:12]
    name, made = taken(f"{file}:Ours")
    assert name == f"some.py:Ours@{digest}"
    assert without_digest(name) == "some.py:Ours"
    assert source_digest(f"{file}:Ours") == digest
    assert made.number == 3
    assert taken(f"{file}:Ours@{digest}").made is made, "equal content is run once"


def test_a_file_that_changed_is_another_class(file: Path) -> None:
    before = taken(f"{file}:Ours")
    file.write_text(SOURCE.replace("3", "4"))
    after = taken(f"{file}:Ours")
    assert (before.made.number, after.made.number) == (3, 4)
    assert before.name != after.name


def test_the_working_directory_is_where_a_path_begins(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert taken("some.py:Ours").name == taken(f"{file}:Ours").name


def test_every_refusal_is_one_line(file: Path) -> None:
    refused(f"{file.parent}/none.py:Ours", "none.py", "working directory")
    refused(f"{file}:Other", "no class Other", "it has Ours")
    refused(f"{file}:count", "count is no class")
    refused(f"{file}:Ours@{'0' * 12}", "000000000000", "leave @DIGEST out")
    file.write_text("import nothing_of_this_name\n")
    refused(f"{file}:Ours", "ModuleNotFoundError", "nothing_of_this_name")
    file.write_text("class Ours(\n")
    refused(f"{file}:Ours", "SyntaxError")


def test_an_installed_class_is_named_by_its_entry_point(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    point = EntryPoint("ours", "some:Ours", GROUP)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [point])
    installed.cache_clear()
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()[:12]
    assert taken("ours").name == f"ours@{digest}"
    assert read_reference("others", GROUP) is None
    broken = EntryPoint("ours", "some:Missing", GROUP)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [broken])
    installed.cache_clear()
    refused("ours", GROUP, "AttributeError")


def test_what_names_no_class_names_none() -> None:
    for text in ("top_prob", "some.py", "some.py:", ":Ours", "some.txt:Ours"):
        assert read_reference(text, GROUP) is None
        assert source_digest(text) is None
