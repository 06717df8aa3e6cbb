"""The matrix of ``docs/models.md``: each cell is what happens when its feature is used.

Decoders with every kind of layer are in the usual suite, the others are slow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.decoders.tiny_families import DECODERS
from tests.matrix.features import FEATURES, Bench, matrix, outcome

pytestmark = pytest.mark.usefixtures("toys_alone")

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
USUAL = ("gemma3_text", "jamba", "falcon_h1", "nemotron_h", "zamba2", "mistral3:ministral3")


def written() -> dict[str, dict[str, str]]:
    """The cells of the page, by decoder and feature."""
    head, _ = matrix({}).splitlines()
    rows = PAGE.read_text("utf-8").split(head + "\n")[1].split("\n\n")[0].splitlines()[1:]
    split = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]
    return {family: dict(zip(FEATURES, cells, strict=True)) for family, *cells in split}


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """The checkpoint of a decoder, made once while its features are tested."""
    last: dict[str, Bench] = {}

    def make(family: str) -> Bench:
        if family not in last:
            last.clear()
            last[family] = Bench.of(family, tmp_path_factory.mktemp("bench"))
        return last[family]

    return make


def test_the_page_has_every_decoder_and_feature() -> None:
    assert matrix(written()) in PAGE.read_text("utf-8")
    assert list(written()) == sorted(DECODERS)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=() if one in USUAL else pytest.mark.slow) for one in sorted(DECODERS)],
)
def test_a_cell(family: str, feature: str, bench_of: Callable[[str], Bench]) -> None:
    assert outcome(feature, bench_of(family)) == written()[family][feature]
