"""The study of cheap looks: its page shows its data, and its numbers are what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cheap_look import area
from benchmarks.cheap_look_tables import tables

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_shows_the_data() -> None:
    found = json.loads((ROOT / "benchmarks" / "cheap_look.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "cheap-look-measured.md").read_text(encoding="utf-8")
    assert tables(found) in page


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_the_area_is_the_share_of_pairs_in_order(tokens: list[tuple[int, bool]]) -> None:
    """A tie counts half."""
    confidence, right = (np.array(column) for column in zip(*tokens, strict=True))
    pairs = [(a > b) + (a == b) / 2 for a in confidence[right] for b in confidence[~right]]
    assert area(confidence, right) == (pytest.approx(np.mean(pairs)) if pairs else None)
