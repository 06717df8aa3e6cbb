"""Documents are the same by contents, whatever columns and spacing they come with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.decontamination import (
    contents,
    digest,
    evaluation_samples,
    read_records,
    training_contents,
)
from dynamax_lm.harness.plugin.task_folder import TASKS


def test_case_spacing_and_other_columns_do_not_matter() -> None:
    one = contents({"question": "Who  wrote\nHamlet?", "question_id": "a1", "answer": {"x": 1}})
    assert one == contents({"question": "who wrote hamlet? ", "source": "elsewhere"})
    assert one != contents({"question": "Who wrote Lear?"})
    about = {"story": "Once.", "question": "Who?"}
    assert contents(about) & contents({"story": "once.", "question": "When?"})


def test_a_document_without_telling_fields_is_all_of_itself() -> None:
    assert contents({"a": 1, "b": [2]}) == contents({"b": [2], "a": 1})
    assert contents({"a": 1}) != contents({"a": 2})
    assert contents({"question": "", "a": 1}) != contents({"question": "", "a": 2})


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8, unique=True), st.data())
def test_a_digest_is_of_the_set(texts: list[str], data: st.DataObject) -> None:
    told = [contents({"x": text}) for text in texts]
    assert digest(told) == digest(data.draw(st.permutations(told)))
    assert digest(told) != digest(told[1:])


@pytest.mark.parametrize(
    "prompt",
    [
        "Question: Who wrote Hamlet?\nAnswer:",
        "Question: Who wrote Hamlet??\nAnswer:",
        "Q: Who wrote Lear?\nA: Him.\n\nQ: Who wrote  Hamlet\nA:",
        "Who wrote Hamlet?",
    ],
)
def test_a_question_is_found_in_prompts_that_heads_were_trained_on(
    prompt: str, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": prompt, "answer": " he"}))
    told = training_contents(str(path))
    assert told is not None
    assert contents({"question": "Who wrote Hamlet?"}) <= told
    assert not contents({"question": "Who wrote Macbeth?"}) & told
    assert not contents({"question": "?", "text": "A"}) & told


def test_a_story_is_found_in_a_prompt(tmp_path: Path) -> None:
    story = "Once there was a cat.\nIt: ran.\n\nThe end."
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": f"{story}\n\nQ: Who?\n\nA:", "answer": " It"}))
    told = training_contents(str(path))
    assert told is not None
    assert contents({"story": story, "questions": {"input_text": ["What?"]}}) <= told


def test_every_record_of_the_samples_is_known() -> None:
    known = evaluation_samples()
    paths = list(TASKS.glob("*/sample*.jsonl"))
    assert len(paths) >= 4
    for path in paths:
        for record in read_records(path):
            assert contents(record) <= known
            told = [record[name] for name in ("question", "story") if name in record]
            assert told, "samples tell by a named field, so that another layout is recognised"


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "no record"), ("\n\n", "no record"), ("{}\n{", "line 2"), ("[1]", "line 1")],
)
def test_files_that_hold_no_records(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(text)
    with pytest.raises(SettingError, match=named) as caught:
        list(read_records(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nowhere"):
        list(read_records(tmp_path / "nowhere.jsonl"))
    (tmp_path / "bytes").write_bytes(json.dumps({"a": "é"}).encode("utf-16"))
    with pytest.raises(SettingError, match="bytes"):
        list(read_records(tmp_path / "bytes"))
