"""Which of an answer's tokens make the text that is left when its stop is cut."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dynamax_lm.decoders.checkpoint import ATTENTION, TINY, resolve_name
from dynamax_lm.models.requests import answer_text, answer_text_tokens, text_tokens
from dynamax_lm.models.stops import StopRule, tokens_of

PIECES = ["a", "b\n", "\n", "\n\n", "Q", "Q:", ":a", ".", " ", ""]
"""Texts of the tokens 0, 1, ...; the last one's is nothing, as an end-of-sequence token's."""
tokens = st.lists(st.integers(0, len(PIECES) - 1), max_size=8)
stops = st.lists(st.sampled_from(["\n", "\nQ:", "\n\n", ".", ""]), max_size=3)


def decode(ids: Sequence[int]) -> str:
    return "".join(PIECES[number] for number in ids)


@given(tokens, stops)
def test_a_token_is_text_if_it_gives_the_text_a_character(ids: list[int], until: list[str]) -> None:
    text = decode(ids)
    for stop in filter(None, until):  # one after the other, as lm-eval cuts
        text = text.partition(stop)[0]
    text = text.rstrip()
    starts = [len(decode(ids[:number])) for number in range(len(ids))]
    giving = [start < len(text) and PIECES[one] for start, one in zip(starts, ids, strict=True)]
    wanted = max((number + 1 for number, gives in enumerate(giving) if gives), default=0)
    assert text_tokens(ids, decode, until) == wanted


@given(st.text(max_size=12), st.integers(0, 12))
def test_characters_of_several_tokens_are_whole(text: str, cut: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_name(TINY, ATTENTION))
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.decode(ids)
    count = tokens_of(whole[:cut], ids, tokenizer.decode)
    assert tokenizer.decode(ids[:count]).startswith(whole[:cut])
    assert not count or not tokenizer.decode(ids[: count - 1]).startswith(whole[:cut])


def byte_fallback() -> Any:
    """A tokenizer that writes characters outside its vocabulary as bytes, as Llama's does."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "Q": 257}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


TOKENIZERS = {
    "byte fallback": byte_fallback(),
    "byte level": AutoTokenizer.from_pretrained(resolve_name(TINY, ATTENTION)),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    before=st.text("aQ:\n é中😀", max_size=6),
    stop=st.sampled_from(["\n", "\n\n", "Q:", "é", "a\nQ:"]),
    after=st.text("aQ é😀", max_size=3),
    spelt=st.booleans(),
)
def test_a_stop_is_found_at_the_token_that_completes_it(
    name: str, before: str, stop: str, after: str, spelt: bool
) -> None:
    """Whatever precedes it, and however its own characters are divided into tokens."""
    tokenizer = TOKENIZERS[name]

    def encode(text: str) -> list[int]:
        pieces = list(text) if spelt else [text]
        return [
            one for piece in pieces for one in tokenizer.encode(piece, add_special_tokens=False)
        ]

    ids = encode(before) + encode(stop) + encode(after)
    first = next(n for n in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:n]))
    rule = StopRule(tokenizer, [stop], frozenset())
    assert next(n for n in range(1, len(ids) + 1) if rule(ids[:n])) == first


@pytest.mark.parametrize("think_end", [5, "Q:"])
def test_thinking_counts_though_it_is_not_shown(think_end: Any) -> None:
    lm: Any = SimpleNamespace(think_end_token=think_end, tok_decode=decode)
    ids = [0, 2, 3, 5, 3, 0, 3, 0]  # thought, its end, blank lines, the answer, the stop
    assert answer_text(lm, ids, ["\n\n"]) == "a"
    assert answer_text_tokens(lm, ids, ["\n\n"]) == 6
    assert answer_text_tokens(lm, [0, 3, 0], ["\n\n"]) == 1


def test_without_thinking_it_is_what_the_text_needs() -> None:
    lm: Any = SimpleNamespace(think_end_token=None, tok_decode=decode)
    assert answer_text_tokens(lm, [0, 1, 4, 9], ["\nQ"]) == 2, "'b\\n' is text in its first part"
    assert answer_text_tokens(lm, [3, 0], ["\n"]) == 0
    assert answer_text_tokens(lm, [0, 9], ["\n"]) == 1, "the end of the sequence is no text"
