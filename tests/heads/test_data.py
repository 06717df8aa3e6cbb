import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.errors import SettingError
from dynamax_lm.heads.data import (
    PASSAGE_CHARACTERS,
    Document,
    HubSource,
    Layout,
    is_held_out,
    open_source,
)


def written(path, *records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return str(path)


def read(data, **layout):
    return list(open_source(data, layout=Layout(**layout), seed=0).documents(0))


def test_jsonl_in_each_of_its_forms(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read(written(path, {"text": "hello"})) == [Document("", "hello")]
    assert read(written(path, {"body": "hello"}), text_field="body") == [Document("", "hello")]
    assert read(written(path, {"prompt": "Q:", "answer": " A"})) == [Document("Q:", " A")]
    record = {"question": "who", "answers": ["me", "you"]}
    layout = {"doc_to_text": "Q: {{question}}?\nA:", "doc_to_target": " {{answers[0]}}\n"}
    assert read(written(path, record), **layout) == [Document("Q: who?\nA:", " me\n")]


@given(st.lists(st.text("ab \n", max_size=3 * PASSAGE_CHARACTERS), min_size=1, max_size=4))
def test_a_text_is_cut_into_passages_that_lose_no_word(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    text = "x" + "\n\n".join(parts)
    path.write_text(text, encoding="utf-8")
    source = open_source(str(path), layout=Layout(), seed=0)
    assert all(len(one.answer) <= 2 * PASSAGE_CHARACTERS for one in source.items)
    letters = "".join("".join(one.answer.split()) for one in source.items)
    assert letters == "".join(text.split())


def test_a_folder_is_all_its_files_and_epochs_differ_in_order_only(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(30):
        written(tmp_path / "in" / f"{number}.jsonl", {"text": f"document {number}"})
    (tmp_path / "readme.md").write_text("not text to train on")
    source = open_source(str(tmp_path), layout=Layout(), seed=1)
    first, second = list(source.documents(0)), list(source.documents(1))
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(first) == 30
    assert list(source.documents(0)) == first


def test_the_held_out_split_has_about_its_share_and_never_changes():
    documents = [Document("", f"document {number}") for number in range(4000)]
    held = [one for one in documents if is_held_out(one, 0.1)]
    assert 300 < len(held) < 500
    assert set(held) <= {one for one in documents if is_held_out(one, 0.2)}
    assert not any(is_held_out(one, 0.0) for one in documents)
    assert all(is_held_out(one, 1.0) for one in documents)


BAD_LINES = {
    '{"prompt": "only"}': "line 1: no field 'text', only prompt",
    "not json": "line 1: not JSON",
    "[1]": "JSON object",
    '{"text": 3}': "is int, not text",
    '{"text": "  "}': "no text in it",
    "": "no text in it",
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items())
def test_bad_records_are_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(SettingError, match=message) as raised:
        read(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bad_places_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for data, message in {
        str(tmp_path / "nothing.txt"): "no such file or folder",
        "nothing.jsonl": "no such file or folder",
        str(tmp_path / "empty"): "no .txt or .jsonl file",
        str(tmp_path / "a.parquet"): "not a kind that is read",
        str(tmp_path / "bytes.txt"): "cannot be read as UTF-8",
    }.items():
        with pytest.raises(SettingError, match=message):
            read(data)


def test_templates_that_fail_name_the_record_or_the_option(tmp_path):
    path = written(tmp_path / "a.jsonl", {"question": "who"})
    with pytest.raises(SettingError, match=r"'answer' is undefined.*it has question"):
        read(path, doc_to_text="{{question}}", doc_to_target="{{answer}}")
    with pytest.raises(SettingError, match="give both or neither"):
        Layout(doc_to_text="{{question}}")
    with pytest.raises(SettingError, match="not a template"):
        Layout(doc_to_text="{{", doc_to_target="x")


def test_a_hub_dataset_without_network_is_one_line():
    source = open_source("nobody/nothing", layout=Layout(), seed=0)
    assert isinstance(source, HubSource)
    with pytest.raises(SettingError, match="nor to be had from the hub") as raised:
        next(source.documents(0))
    assert "\n" not in str(raised.value)
