"""Every number, row and answer that was changed after a run is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Made, Plan, verified, write_run

from dynamax_lm.common.errors import SettingError

Keys = tuple[str, ...]


_LEFT = (
    "takes the model",
    "no manifest",
    "by the task's own code: its file is not among",
    "the tokenizer is not on this machine",
)
"""What no made-up run has."""


def _refused(made: Made) -> list[str]:
    """What is named, where a change may also leave nothing that can be read."""
    try:
        return verified(made).mismatches
    except SettingError as error:
        return [str(error)]


def _numbers(data: Any, path: Keys = ()) -> Iterator[Keys]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, (*path, key))
    elif isinstance(data, (int, float)) and not isinstance(data, bool):
        yield path


def _published(data: dict[str, Any]) -> list[Keys]:
    """Every number that a run of ours publishes; not its settings."""
    ours = [("results",), ("config", "early_exit"), ("n-samples",)]
    paths = [p for p in _numbers(data) if p[:1] in ours or p[:2] in ours]
    return [p for p in paths if "settings" not in p and "sample_len" not in p]


def _tampered(data: dict[str, Any], path: Keys) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    value = inner[path[-1]]
    inner[path[-1]] = value + 1 if isinstance(value, int) else value * 1.001 + 1e-6
    return changed


@given(seed=st.integers(0, 10_000), documents=st.integers(1, 6), silent=st.integers(0, 6))
def test_what_was_computed_from_the_records_matches(
    tmp_path_factory: pytest.TempPathFactory, seed: int, documents: int, silent: int
) -> None:
    plan = Plan(seed=seed, documents=documents, silent=silent)
    made = write_run(tmp_path_factory.mktemp("run"), plan)
    found = verified(made)
    assert found.mismatches == []
    assert all(any(why in line for why in _LEFT) for line in found.unchecked)
    assert found.checked > 100


def test_every_tampered_number_of_the_results_is_named(made: Made) -> None:
    data = made.data()
    paths = _published(data)
    assert len(paths) > 100
    try:
        for path in paths:
            made.change(_tampered(data, path))
            mismatches = _refused(made)
            assert mismatches, path
            if "costs" not in path:
                named = path[-1].replace("_stderr", "")
                named = "n-samples" if path[0] == "n-samples" else named
                assert any(named.partition(",")[0] in line for line in mismatches), path
    finally:
        made.change(data)
    assert not verified(made).mismatches


def test_every_tampered_number_of_a_sample_is_named(made: Made) -> None:
    for task, path in made.samples.items():
        text = path.read_text()
        lines = text.splitlines()
        for number, line in enumerate(lines):
            sample = json.loads(line)
            for name in sample["metrics"]:
                changed = {**sample, name: sample[name] * 1.01 + 0.001}
                lines[number] = json.dumps(changed)
                path.write_text("\n".join(lines))
                mismatches = verified(made).mismatches
                assert any(f"{task} " in m and name in m for m in mismatches), (task, name)
            lines[number] = line
        path.write_text(text)


@pytest.mark.parametrize(
    "name", ["layers_used", "emitted", "full_depth", "position", "doc_id", "text_tokens"]
)
def test_a_tampered_trace_is_named(made: Made, name: str) -> None:
    for path in made.traces.iterdir():
        text = path.read_text()
        lines = text.splitlines()
        row = json.loads(lines[0])
        other = 3 if row["layers_used"] != 3 else 5
        row[name] = other if name == "layers_used" else (row[name] or 0) + 70
        path.write_text("\n".join([json.dumps(row), *lines[1:]]))
        assert verified(made).mismatches
        path.write_text(text)


def test_a_token_of_full_depth_cannot_disagree_with_full_depth(made: Made) -> None:
    """Nor may the noise floor hide: both follow from depths and tokens."""
    changes = 0
    for path in made.traces.iterdir():
        text = path.read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        own = next((row for row in rows if row["reference_pass"] is not None), None)
        for name in ("full_depth", "reference_pass") if own else ():
            value = own[name]
            own[name] = own["emitted"] + 70 if value == own["emitted"] else own["emitted"]
            path.write_text("\n".join(map(json.dumps, rows)))
            named = verified(made).mismatches
            word = {"full_depth": "full depth would not emit", "reference_pass": "agreement_noise"}
            assert any(word[name] in line for line in named)
            own[name] = value
            changes += 1
        path.write_text(text)
    assert changes == 2 * len(made.samples)


def test_a_tampered_prompt_length_is_named(made: Made) -> None:
    """The prompt's length decides what attention costs."""
    path = made.traces / "trace_gen.jsonl"
    text = path.read_text()
    first, *others = (json.loads(line) for line in text.splitlines())
    changed = [{**first, "prompt_tokens": first["prompt_tokens"] + 1}, *others]
    path.write_text("\n".join(map(json.dumps, changed)))
    assert any("prompt" in line for line in verified(made).mismatches)
    path.write_text(text)


def test_a_deleted_row_is_named(made: Made) -> None:
    path = made.traces / "trace_mc.jsonl"
    text = path.read_text()
    path.write_text("".join(text.splitlines(keepends=True)[1:]))
    assert verified(made).mismatches
    path.write_text(text)


def test_the_logged_answers_belong_to_the_trace(made: Made) -> None:
    path = made.samples["mc"]
    text = path.read_text()
    flipped = text.replace('"True"', '"maybe"').replace('"False"', '"True"')
    path.write_text(flipped.replace('"maybe"', '"False"'))
    mismatches = verified(made).mismatches
    assert any("is_greedy" in line for line in mismatches)
    path.write_text(text)
