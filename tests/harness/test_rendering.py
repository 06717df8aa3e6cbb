"""What renders requests has a digest: by source, by what it names, and not by address."""

from __future__ import annotations

import functools
import importlib.util
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.harness.rendering import chat_template_of, digest, rendering_of

SOURCE = """
import re
PREFIX = "Q: "
WORDS = re.compile("a+")
def helper(text):
    return PREFIX + WORDS.sub("", text)
class Keeper:
    def keep(self, doc):
        return helper(doc["q"])
def doc_to_text(doc, mark="?"):
    return Keeper().keep(doc) + mark
def unused(doc):
    return doc
"""


def module(folder: Path, source: str, name: str = "utils") -> ModuleType:
    """A module as lm-eval loads a task's: from a path, under any name."""
    path = folder / f"{digest(source)}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # as a class's source is looked up by it
    spec.loader.exec_module(made)
    return made


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("utils", "utils_again"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)


def test_a_function_counts_by_its_source_wherever_it_lies(tmp_path: Path) -> None:
    first = digest(module(tmp_path, SOURCE).doc_to_text)
    (tmp_path / "elsewhere").mkdir()
    assert digest(module(tmp_path / "elsewhere", SOURCE, "utils_again").doc_to_text) == first


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"Q: "', '"Question: "', False),
        ('"a+"', '"b+"', False),
        ("PREFIX + ", "", False),
        ('doc["q"]', 'doc["question"]', False),
        ('mark="?"', 'mark="."', False),
        ("return doc\n", "return None\n", True),
    ],
)
def test_what_a_function_names_counts_with_it(
    old: str, new: str, same: bool, tmp_path: Path
) -> None:
    before = digest(module(tmp_path, SOURCE).doc_to_text)
    after = digest(module(tmp_path, SOURCE.replace(old, new)).doc_to_text)
    assert (before == after) == same


@pytest.mark.parametrize(
    "using",
    [
        "from task_helper import text\ndef doc_to_text(doc): return text(doc)\n",
        "import task_helper\ndef doc_to_text(doc): return task_helper.text(doc)\n",
    ],
)
def test_a_helper_in_the_folder_counts_by_its_source(
    using: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, body in enumerate(("return doc", "return doc", "return None")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "task_helper.py").write_text(f"def text(doc):\n    {body}\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "task_helper", raising=False)
        found.append(digest(module(folder, using).doc_to_text))
    monkeypatch.delitem(sys.modules, "task_helper")
    same, again, other = found
    assert same == again != other


def test_closures_partials_and_methods() -> None:
    def adds(text: str) -> Callable[[str], str]:
        return lambda doc: doc + text

    assert digest(adds("a")) == digest(adds("a"))
    assert digest(adds("a")) != digest(adds("b"))
    assert digest(functools.partial(adds, "a")) == digest(functools.partial(adds, "a"))
    assert digest(functools.partial(adds, "a")) != digest(functools.partial(adds, "b"))
    assert digest(re.compile("a")) != digest(re.compile("b"))
    assert digest(SimpleNamespace(x=1)) != digest(SimpleNamespace(x=2))
    assert digest(object()) == digest(object())


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain, plain)
def test_plain_values_count_as_they_are(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: Any) -> str:
    import json

    return json.dumps(value, sort_keys=True)


def test_a_thing_that_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert digest(loop) == digest(loop)


class _Task:
    """As much of a task as is read."""

    def __init__(self, shots: int = 0, examples: list[str] | None = None, **config: Any) -> None:
        self.config = {"num_fewshot": shots, **config}
        self.sampler = SimpleNamespace(df=examples or [])

    def get_config(self, name: str) -> Any:
        return self.config.get(name)


def test_examples_count_where_there_are_any() -> None:
    state = random.Random(1).getstate()
    none = rendering_of(_Task(examples=["a", "b"]), state)
    assert none == rendering_of(_Task(examples=["b"]), random.Random(2).getstate())
    two = rendering_of(_Task(2, ["a", "b"]), state)
    for other in (
        rendering_of(_Task(2, ["b", "a"]), state),
        rendering_of(_Task(2, ["a"]), state),
        rendering_of(_Task(2, ["a", "b"]), random.Random(2).getstate()),
    ):
        assert other != two
        assert set(other) == set(two)


def test_an_empty_part_is_one_left_out() -> None:
    assert rendering_of(_Task(description=""), None) == rendering_of(_Task(), None)
    spaced = rendering_of(_Task(target_delimiter=" "), None)
    assert spaced != rendering_of(_Task(target_delimiter=""), None)


def test_a_chat_template_counts_by_its_text() -> None:
    class Speaker:
        def __init__(self, template: Any) -> None:
            self.tokenizer = SimpleNamespace(chat_template=template)

        def apply_chat_template(self, history: Any) -> str:
            return str(history)

    def told(template: Any) -> str | None:
        return chat_template_of(Speaker(template).apply_chat_template)

    assert chat_template_of(None) is None
    assert told("a") == told("a") == told({"default": "a", "tools": "b"})
    assert told("a") != told("b")
