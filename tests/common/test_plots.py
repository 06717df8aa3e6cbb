"""Colours of layers are in order in grey, and readable; pictures are the same every time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.plots import CYCLE, new_figure, require_matplotlib, save_figure, shades


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


def test_the_colours_are_those_of_cividis() -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    for i, shade in enumerate(shades(86)):
        theirs = colormaps["cividis"](0.95 - 0.01 * i)[:3]
        assert to_rgb(shade.paper) == pytest.approx(theirs, abs=0.05)


def test_coloured_text_needs_no_matplotlib_and_pictures_say_that_they_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(shades(3)) == 3
    for wants in (require_matplotlib, lambda: new_figure(2, 1)):
        with pytest.raises(SettingError, match=r"pip install 'dynamax-lm\[plots\]'"):
            wants()


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
