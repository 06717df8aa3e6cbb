"""Colours of layers are in order in grey, and readable; pictures are the same every time."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.plots import CYCLE, new_figure, save_figure, shades


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@given(st.integers(1, 64))
def test_deeper_is_darker_and_ink_is_readable(count: int) -> None:
    """Readable: a contrast of at least 4.5, as WCAG AA asks."""
    made = shades(count)
    papers = [_luminance(shade.paper) for shade in made]
    assert papers == sorted(papers, reverse=True)
    for shade, paper in zip(made, papers, strict=True):
        light, dark = sorted((paper, _luminance(shade.ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_picture_is_the_same_file_every_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        figure = new_figure(2, 1)
        figure.subplots().plot([0, 1], color=CYCLE[0])
        save_figure(figure, tmp_path / name, dpi=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}.{kind}" for name in ("first", "second") for kind in ("png", "svg")
    ]
    for kind in ("png", "svg"):
        first, second = (tmp_path / f"{name}.{kind}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
