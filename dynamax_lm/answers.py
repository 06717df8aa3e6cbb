"""What the Python interface returns: answers, scores, and the predictions of every exit.

Glossary: N tokens, E exits, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynamax_lm.core.trace import AnswerTrace, FlopsBreakdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Answer:
    """A generated text, and the exit of each of its tokens.

    A notebook shows it with each token coloured by the layer at which it exited.

    >>> from dynamax_lm import load
    >>> answer = load("tiny").generate("The cat sat on", max_gen_toks=4)
    >>> len(answer.tokens) == len(answer.pieces) == len(answer.layers_used) == 4
    True
    >>> set(answer.layers_used) <= set(answer.depths)
    True

    Attributes:
        text: as lm-eval returns it, cut at its stop.
        trace: its tokens, the layers run for each, and the confidence at its exit, including tokens
            that only make a stop sequence (``trace.text`` is without them).
        flops: FLOPs of the tokens of the text, by item.
        reference: the full-depth model's own text; ``None`` without a reference.
        pieces: the text of each token.
        full_depth_pieces: full depth's token after the same prefix, where it is another one; else
            ``None``.
        depths: layers at which a token may exit, ascending, L last.
    """

    text: str
    trace: AnswerTrace
    flops: FlopsBreakdown
    reference: str | None
    pieces: tuple[str, ...]
    full_depth_pieces: tuple[str | None, ...]
    depths: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids."""
        return self.trace.tokens

    @property
    def layers_used(self) -> tuple[int, ...]:
        """Layers run for each token, 1..L."""
        return self.trace.layers_used

    @property
    def confidence(self) -> tuple[float | None, ...]:
        """At each token's exit, or at the last exit checked; ``None`` where none was."""
        return self.trace.confidence

    @property
    def agreement(self) -> float | None:
        """Share of the text's tokens equal to full depth's; ``None`` without a reference."""
        agreeing = self.trace.text.agreeing
        return None if agreeing is None or not len(self.trace.text) else agreeing / len(self)

    def __len__(self) -> int:
        return len(self.trace.text)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The coloured answer, for notebooks."""
        from dynamax_lm.display.notebook import answer_html

        return answer_html(self)


@dataclass(frozen=True)
class Score:
    """A scored continuation.

    >>> from dynamax_lm import load
    >>> score = load("tiny").score("The cat sat on", " the mat")
    >>> score.log_likelihood < 0, len(score.trace.layers_used) == len(score.trace.tokens)
    (True, True)

    Attributes:
        log_likelihood: of the continuation, natural logarithm.
        greedy: whether every token is the most likely one where it exits.
        trace: its tokens and the layers run for each.
        flops: FLOPs, by item.
        reference: (log-likelihood, greedy) at full depth; ``None`` without a reference.
    """

    log_likelihood: float
    greedy: bool
    trace: AnswerTrace
    flops: FlopsBreakdown
    reference: tuple[float, bool] | None


@dataclass(frozen=True)
class ExitGrid:
    """Predictions of every exit after every token of a text, with exact state (the logit lens).

    >>> from dynamax_lm import load
    >>> grid = load("tiny").probe("The cat sat on", exit_layers=[8, 12])
    >>> grid.predicted.shape == (len(grid.tokens), 3)  # two exits, and full depth
    True
    >>> grid.agrees.shape == grid.confidence.shape == (len(grid.tokens), 2)
    True

    Attributes:
        tokens: (N,) the text's token ids.
        pieces: their texts.
        layers: (E,) layers run before each exit.
        predicted: (N, E + 1) most likely next token of every exit, full depth's last.
        confidence: (N, E) in [0, 1], by the model's measure.
        predicted_pieces: (N, E + 1) texts of ``predicted``.
        measure: name of the confidence measure.
    """

    tokens: npt.NDArray[np.int64]
    pieces: tuple[str, ...]
    layers: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    predicted_pieces: npt.NDArray[np.str_]
    measure: str

    @property
    def agrees(self) -> npt.NDArray[np.bool_]:
        """(N, E) whether an exit predicts what full depth predicts."""
        agrees: npt.NDArray[np.bool_] = self.predicted[:, :-1] == self.predicted[:, -1:]
        return agrees

    def figure(self) -> Figure:
        """Heat maps of agreement with full depth and of confidence, exits by tokens."""
        from dynamax_lm.display.heatmap import heat_map

        return heat_map(self)

    def save(self, stem: str | Path) -> list[Path]:
        """Write the figure as ``stem.png`` and ``stem.svg``; the paths written.

        Raises:
            OSError: a file cannot be written.
        """
        from dynamax_lm.common.plots import save_figure

        return save_figure(self.figure(), Path(stem), dpi=150)

    def _repr_png_(self) -> bytes:
        """The figure, for notebooks."""
        from dynamax_lm.common.plots import encode

        return encode(self.figure(), "png", dpi=110)
