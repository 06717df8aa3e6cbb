"""Tokenizer files with ids that would fill the memory are refused by token; others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.tokenizer_file import FILE, LARGEST_ID, check_token_ids
from tests.checkpoints import byte_tokenizer


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    byte_tokenizer().save_pretrained(tmp_path)
    check_token_ids(tmp_path)
    return dict(json.loads((tmp_path / FILE).read_text()))


@pytest.mark.parametrize("number", [LARGEST_ID + 1, 2**31, -1, 1e308])
@pytest.mark.parametrize("added", [False, True])
def test_a_huge_id_is_refused_by_token(
    number: float, added: bool, data: dict[str, Any], tmp_path: Path
) -> None:
    if added:
        data["added_tokens"][0]["id"] = number
        name = data["added_tokens"][0]["content"]
    else:
        name = next(iter(data["model"]["vocab"]))
        data["model"]["vocab"][name] = number
    (tmp_path / FILE).write_text(json.dumps(data))
    with pytest.raises(SettingError, match=FILE) as caught:
        check_token_ids(tmp_path)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'{"model": 1, "added_tokens": [2]}'])
def test_damage_is_left_to_the_tokenizers_own_reader(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    check_token_ids(tmp_path)
    check_token_ids("somebody/something")
