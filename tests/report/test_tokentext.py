"""Answers cut into tokens: joined, they are the text again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import Plan, write_run

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.token_pieces import split
from dynamax_lm.decoders.checkpoint import ATTENTION, resolve_name
from dynamax_lm.report.load import load
from dynamax_lm.report.tokentext import TokenTexts


@given(st.text(max_size=30))
def test_the_pieces_of_bytes_join_to_the_text(text: str) -> None:
    """A tokenizer of bytes: every character beyond ASCII is made up of several tokens."""

    def decode(ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")

    ids = list(text.encode("utf-8"))
    pieces = split(ids, decode)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


@given(st.lists(st.sampled_from(["▁a", "b", "▁", "c"]), max_size=12))
def test_tokenizers_that_drop_a_leading_space(words: list[str]) -> None:
    """As sentencepiece does: the space of a text's first token is not shown, all others are."""

    def decode(ids: list[int]) -> str:
        text = "".join(words[i] for i in ids).replace("▁", " ")
        return text[1:] if text.startswith(" ") else text

    assert "".join(split(range(len(words)), decode)) == decode(list(range(len(words))))


def test_without_a_tokenizer_ids_are_shown() -> None:
    assert split([5, 17], None) == ["⟨5⟩", "⟨17⟩"]


def test_each_run_finds_its_own_tokenizer_or_none(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny", Plan(settings={"pretrained": "tiny"}, date=1.0))
    write_run(tmp_path / "gone", Plan(settings={"pretrained": "no/such-model"}, date=2.0))
    tiny, gone = load([tmp_path]).runs
    texts = TokenTexts()
    decode = texts.of(tiny)
    assert decode is not None
    assert texts.of(gone) is None
    given_one = TokenTexts(resolve_name("tiny", ATTENTION)).of(gone)
    assert given_one is not None
    assert given_one([70, 90, 300]) == decode([70, 90, 300])


def test_a_tokenizer_that_was_asked_for_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"--tokenizer {tmp_path}"):
        TokenTexts(str(tmp_path))


def test_without_being_asked_no_network_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    write_run(tmp_path, Plan(settings={"pretrained": "no/such-model"}))
    assert TokenTexts().of(load([tmp_path]).runs[0]) is None


@pytest.mark.parametrize("text", [" Mr. Smith,\n\nwho is naïve", "🙂 ünï", "  two  spaces"])
def test_the_embedded_tokenizer_joins_to_its_text(tmp_path: Path, text: str) -> None:
    from tokenizers import Tokenizer

    file = Path(resolve_name("tiny", ATTENTION)) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = split(ids, lambda some: tokenizer.decode(some, skip_special_tokens=False))
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=False)
