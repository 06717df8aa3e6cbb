"""Answers and grids as notebooks show them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import dynamax_lm
from dynamax_lm import Answer, ExitModel
from dynamax_lm.display.heatmap import heat_map


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> ExitModel:
    return dynamax_lm.load(str(checkpoint), threshold=0.02, dtype="float32", exit_layers=[1, 2])


class Spans(HTMLParser):
    """Tokens with their tooltips."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[tuple[str, str]] = []
        self.title: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.title = dict(attrs).get("title")

    def handle_data(self, data: str) -> None:
        if self.title is not None:
            self.tokens.append((data, self.title))
            self.title = None


def test_an_answer_shows_every_token_with_its_depth(model: ExitModel) -> None:
    answer = model.generate("a <b>quiet</b> harbour", max_gen_toks=8)
    assert isinstance(answer, Answer)
    spans = Spans()
    spans.feed(answer._repr_html_())
    assert len(spans.tokens) == len(answer.tokens)
    for (shown, title), piece, full, depth in zip(
        spans.tokens, answer.pieces, answer.full_depth_pieces, answer.layers_used, strict=True
    ):
        assert title.startswith(f"{depth} of 4 layers")
        assert shown.startswith("≠") == (full is not None)
        assert shown.removeprefix("≠").startswith(piece[:1].replace("\n", "↵") or "·")


def test_differences_are_those_of_the_trace(model: ExitModel) -> None:
    answer = model.generate("a quiet harbour", max_gen_toks=8)
    rows = answer.trace.rows()
    differs = [row.full_depth != row.emitted for row in rows]
    assert [one is not None for one in answer.full_depth_pieces] == differs


@pytest.mark.parametrize("text", ["a $x_1$ harbour", "one" * 20])
def test_the_picture_has_a_cell_for_every_exit_and_token(model: ExitModel, text: str) -> None:
    grid = model.probe(text)
    upper, lower, _ = heat_map(grid).axes
    shape = grid.confidence.T.shape
    assert upper.images[0].get_array().shape == lower.images[0].get_array().shape == shape
    assert np.array_equal(upper.images[0].get_array(), grid.agrees.T)
    assert np.allclose(lower.images[0].get_array(), grid.confidence.T)
    assert grid._repr_png_().startswith(b"\x89PNG")


def test_the_picture_is_saved(model: ExitModel, tmp_path: Path) -> None:
    paths = model.probe("harbour").save(tmp_path / "grid")
    assert [path.name for path in paths] == ["grid.png", "grid.svg"]
    assert all(path.stat().st_size for path in paths)


def test_a_probe_by_another_measure(model: ExitModel) -> None:
    ids = model.lm.tok_encode("harbour")
    own, other = model.probe("harbour"), model.probe(ids, confidence="margin")
    assert (own.measure, other.measure) == ("top_prob", "margin")
    assert np.array_equal(own.predicted, other.predicted)
    assert (other.confidence <= own.confidence + 1e-6).all()
