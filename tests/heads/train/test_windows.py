import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.sources import LocalSource
from dynamax_lm.heads.train.windows import Batch, BatchStream, Packing, Window


def encode(text):
    return [ord(letter) for letter in text]


def stream(documents, *, window=6, batch_size=2, seed=0, keep=lambda _: True):
    return BatchStream(
        LocalSource(tuple(documents), seed),
        keep,
        encode,
        Packing(window, 0, seed),
        batch_size=batch_size,
        name="test",
    )


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


records = st.lists(
    st.builds(
        Document,
        st.text("pq", max_size=9),
        st.text("abc", min_size=1, max_size=9),
    ),
    min_size=3,
    max_size=20,
)


@given(records, st.integers(0, 30), st.integers(1, 3), st.integers(0, 5))
def test_a_stream_goes_on_exactly_where_its_state_was_taken(documents, before, size, seed):
    documents = [*documents, Document("", "x" * 12)]
    one = stream(documents, batch_size=size, seed=seed)
    for _ in range(before):
        next(one)
    other = stream(documents, batch_size=size, seed=seed)
    other.restore(one.state())
    for _ in range(12):
        assert equal(next(one), next(other))


@given(st.lists(st.text("abc", min_size=1, max_size=30), min_size=1, max_size=10))
def test_plain_text_is_packed_whole_and_in_order(texts):
    joined = [token for text in texts for token in [*encode(text), 0]]
    carry: list[int] = []
    windows = []
    packing = Packing(5, 0, 0)
    for text in texts:
        windows += packing.windows(Document("", text), encode(text), 0, carry)
    flat = [token for one in windows for token in one.ids]
    assert flat + carry == joined
    assert len(carry) < 5
    assert all(len(one.ids) == 5 and 0 <= one.start < 5 for one in windows)


@given(st.text("p", min_size=1, max_size=20), st.text("ab", min_size=1, max_size=20))
def test_a_record_is_asked_from_the_last_prompt_token_and_its_last_token_is_not_run(prompt, answer):
    ids = encode(prompt + answer)
    windows = list(Packing(8, None, 0).windows(Document(prompt, answer), ids, len(prompt), []))
    if len(answer) > 8:  # no prompt token fits in front
        assert windows == []
        return
    (window,) = windows
    assert list(window.ids) == ids[:-1][-8:]
    assert len(window.ids) - window.start == len(answer)
    assert chr(window.ids[window.start]) == "p"
    assert "p" not in map(chr, window.ids[window.start + 1 :])


def test_a_batch_pads_on_the_right_and_asks_each_row_from_its_start():
    batch = Batch.of([Window((1, 2, 3, 4), 1), Window((5, 6), 1)])
    positions, real = batch.checked()
    assert batch.ids.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert positions.tolist()[0] == [1, 2, 3]
    assert positions[1, 0] == 1
    assert real.tolist() == [[True, True, True], [True, False, False]]


def test_every_window_is_given_once_in_an_epoch():
    documents = [Document("p", chr(100 + number) * 2) for number in range(32)]
    given_now = itertools.islice(stream(documents), 16)
    seen = sorted(tuple(row) for batch in given_now for row in batch.ids.tolist())
    assert seen == sorted((ord("p"), ord(one.answer[0])) for one in documents)


def test_once_is_one_pass_over_the_split():
    documents = [Document("p", chr(100 + number) * 2) for number in range(37)]
    kept = stream(documents, keep=lambda one: ord(one.answer[0]) % 2 == 0)
    rows = [row for batch in kept.once() for row in batch.ids.tolist()]
    assert len(rows) == 19


def test_too_little_text_is_said():
    with pytest.raises(SettingError, match="fewer than one window of 6"):
        next(stream([Document("", "abc")]))
    with pytest.raises(SettingError, match="0 tokens"):
        next(stream([Document("", "abcdefgh")], keep=lambda _: False))
