import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train.documents import Document, Layout
from dynamax_lm.heads.train.held_out import part_of
from dynamax_lm.heads.train.sources import PASSAGE_CHARACTERS, HubSource, open_source


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


WORDS = st.text("abcdefg ", min_size=1, max_size=30).filter(str.strip)


@given(st.lists(st.tuples(WORDS, st.integers(0, 5)), min_size=1, max_size=30), st.floats(0, 1))
def test_a_named_group_lies_on_one_side(tmp_path_factory, records, share):
    path = tmp_path_factory.mktemp("groups") / "a.jsonl"
    rows = [{"prompt": p, "answer": "x", "story": number} for p, number in records]
    sides = {}
    for one in read(written(path, *rows), group_by="story"):
        sides.setdefault(one.group, set()).add(part_of(one, share))
    assert set(sides) == {str(number) for _, number in records}
    assert all(len(side) == 1 for side in sides.values())


def test_a_group_that_a_record_lacks_is_named(tmp_path):
    path = written(tmp_path / "a.jsonl", {"text": "hello", "story": 1}, {"text": "again"})
    with pytest.raises(SettingError, match=r"line 2: --group_by=story: names no group.*text"):
        read(path, group_by="story")


BAD_LINES = {
    '{"prompt": "only"}': "line 1: no field 'text', only prompt",
    "not json": "line 1: not JSON",
    "[1]": "JSON object",
    '{"text": 3}': "is int, not text",
    '{"prompt": "a", "answer": "b", "until": 3}': "field 'until' is 3",
    '{"prompt": "a", "answer": "b", "until": ["", "x"]}': "give a text or a list of texts",
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
