"""Answers in a terminal: coloured tokens, the depth bar, totals, and the table of exits.

Uses rich, which respects ``NO_COLOR``, the terminal's width and its number of colours. Without
colours the depth of a token is written behind it, so that nothing depends on colour alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dynamax_lm.answers import Answer, ExitGrid
from dynamax_lm.common.plots import shades
from dynamax_lm.play.session import Played
from dynamax_lm.play.stream import StreamedToken

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_CELL, _PIECE = 15, 9
"""Characters of a cell of the table of exits, and of the token in it."""
_TOKEN, _LAST = _PIECE + 4, _PIECE + 1
"""Characters of the table's first column, the token and its layer, and of its last."""
_SOFT, _GOOD, _BAD = Style(dim=True), Style(color="green", underline=True), Style(color="red")


class Display:
    """Writes one answer after another to a console.

    Args:
        console: where to write.
        depths: layers at which a token may exit, ascending, L last.
        lossless: whether tokens are drafted and verified; they are then coloured by that.
    """

    def __init__(self, console: Console, depths: Sequence[int], *, lossless: bool) -> None:
        self._console, self._depths, self._lossless = console, depths, lossless
        self._plain = console.no_color or console.color_system is None
        self._styles = {
            layers: Style(color=shade.ink, bgcolor=shade.paper)
            for layers, shade in zip(depths, shades(len(depths)), strict=True)
        }

    def prompt(self, text: str) -> None:
        """Write the prompt before its answer."""
        self._console.print(Text(text, style=_SOFT), end="", soft_wrap=True)

    def token(self, token: StreamedToken) -> None:
        """Write a token as soon as it is final."""
        text = Text()
        if token.rejected:
            shown = f"[-{token.rejected}-]" if self._plain else token.rejected
            text.append(shown.replace("\n", "↵"), _BAD + Style(strike=True))
        text.append(visible(token.piece), self._style(token))
        text.append(self._mark(token))
        text.append("\n" * token.piece.count("\n"))
        self._console.print(text, end="", soft_wrap=True)

    def _style(self, token: StreamedToken) -> Style:
        if self._lossless:
            return _GOOD if token.drafted else Style()
        return self._styles[token.layers_used]

    def _mark(self, token: StreamedToken) -> str:
        if not self._plain:
            return ""
        if self._lossless:
            return "⁺" if token.drafted else ""
        full = token.layers_used == self._depths[-1]
        return "" if full else str(token.layers_used).translate(_RAISED)

    def summary(self, played: Played, hint: str = "") -> None:
        """The depth bar and the totals, below the answer.

        Args:
            played: the answer.
            hint: a last line; empty for none.
        """
        self._console.print()
        if not self._lossless:
            self._bar(played.answer)
        for line in [*totals(played), *([hint] if hint else [])]:
            self._console.print(Text(line, style=_SOFT))
        if self._lossless:
            key = "accepted⁺ [-rejected-]" if self._plain else "green: accepted, struck: rejected"
            self._console.print(Text(f"{key}; the others are full depth's own", style=_SOFT))
        self._console.print()

    def _bar(self, answer: Answer) -> None:
        counts, total = Counter(answer.trace.text.layers_used), len(answer)
        last = self._depths[-1]
        room = max(4, self._console.width - 32)
        for layers in self._depths if total else ():
            share = counts[layers] / total
            text = Text(f"{layers:>3} of {last} ")
            cells = "█" * round(share * room)
            text.append(cells, Style(color=self._styles[layers].bgcolor))
            text.append(f" {counts[layers]} token{'s' * (counts[layers] != 1)}, {share:.0%}")
            self._console.print(text, no_wrap=True)

    def exits(self, answer: Answer, grid: ExitGrid) -> None:
        """What every exit predicts for every token of the answer, in as many tables as fit.

        Args:
            answer: the answer.
            grid: of the same tokens: row n predicts the answer's token n.
        """
        self._console.print(
            Text(
                f"What each exit predicts after the same prefix, with its confidence "
                f"({grid.measure}); ≠: not full depth's token",
                style=_SOFT,
            )
        )
        at_once = max(1, (self._console.width - _TOKEN - _LAST - 1) // (_CELL + 1))
        for start in range(0, len(grid.layers), at_once):
            some = range(start, min(start + at_once, len(grid.layers)))
            self._console.print(self._table(answer, grid, some))
            self._console.print()

    def _table(self, answer: Answer, grid: ExitGrid, some: Sequence[int]) -> Table:
        last = self._console.width >= _TOKEN + _CELL + _LAST + 2  # else ≠ alone says it
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("token   layer", width=_TOKEN, no_wrap=True)
        for place in some:
            table.add_column(f"layer {grid.layers[place]}", width=_CELL, no_wrap=True)
        if last:
            table.add_column("full depth", width=_LAST, no_wrap=True)
        for row, piece in enumerate(answer.pieces):
            cells = [Text(f"{_fit(piece)} {answer.layers_used[row]:>3}")]
            for place in some:
                same = bool(grid.agrees[row, place])
                name = _fit(str(grid.predicted_pieces[row, place]))
                cell = f"{' ' if same else '≠'}{name} {grid.confidence[row, place]:.2f}"
                cells.append(Text(cell, Style() if same else _BAD))
            if last:
                cells.append(Text(_fit(str(grid.predicted_pieces[row, -1]))))
            table.add_row(*cells)
        return table


def totals(played: Played) -> list[str]:
    """Layers, FLOPs, agreement and seconds of one answer, a line each."""
    answer, lines = played.answer, []
    text, full = answer.trace.text, answer.depths[-1]
    if len(text):
        mean = sum(text.layers_used) / len(text)
        counted = f"{len(text)} token{'s' * (len(text) != 1)} of text"
        if rest := len(answer.trace) - len(text):
            counted += f" ({rest} more of white space or stop)"
        lines.append(f"{counted}, {mean:.1f} of {full} layers a token")
        lines.append(
            f"net FLOPs saved: {answer.flops.flops_saved:.1%} of the answer, "
            f"{answer.flops.flops_saved_total:.1%} with the prompt"
        )
    else:
        lines.append("the text is empty")
    if (agreement := answer.agreement) is not None:
        same = "is the same" if answer.reference == answer.text else "differs"
        lines.append(
            f"agreement with full depth: {agreement:.1%} ({answer.trace.text.agreeing} of "
            f"{len(text)} tokens); its own answer {same}"
        )
        if answer.reference != answer.text:
            lines.append(f"full depth: {visible(str(answer.reference))}")
    if text.rounds is not None:
        drafted = sum(len(one.drafted) for one in text.rounds)
        accepted = sum(one.accepted for one in text.rounds)
        lines.append(f"{accepted} of {drafted} drafted tokens accepted")
    seconds = f"answer in {played.seconds:.2f} s"
    if played.speedup is not None and played.full_depth_seconds is not None:
        seconds += (
            f", full depth {played.full_depth_seconds:.2f} s: {played.speedup:.2f} times its "
            "tokens per second (one run)"
        )
    return [*lines, seconds]


def visible(text: str) -> str:
    """The text with its line breaks, which would break a table or a line, as signs."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "")


def _fit(piece: str) -> str:
    """A token's text in a fixed number of characters; one of spaces only is shown as signs."""
    shown = visible(piece)
    if not shown.strip():
        shown = shown.replace(" ", "␣")
    return (shown if len(shown) <= _PIECE else shown[: _PIECE - 1] + "…").ljust(_PIECE)
