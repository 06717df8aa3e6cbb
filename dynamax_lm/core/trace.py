"""Records of emitted tokens and answers: all that the core reports to the rest of the package.

Owns the record of one answer (a generated text, or a scored continuation) and its FLOPs by item. It
does not know models, thresholds or files.

Recorded tokens are those of an answer, up to and including its stop sequence; never padding,
prompts, batch-size probes, or tokens after a stop. The first ``text_tokens`` of them make the
returned text, the others only the stop sequence. They are kept apart since a stop sequence that
early layers predict correctly would otherwise dominate the averages of short answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

RECORDS = 3
"""Version of the record format; a response cache with records of another version is refused."""


class TokenRow(NamedTuple):
    """One emitted token of a trace.

    >>> row = TokenRow(0, token=7, emitted=7, layers_used=4, confidence=0.95, full_depth=7)
    >>> row.emitted == row.full_depth
    True

    Attributes:
        position: index of the token in its answer, from 0.
        token: the answer's token id (generated, or the continuation's own in scoring).
        emitted: what the exit emitted; differs from ``token`` only in scoring.
        layers_used: decoder layers run for it, 1..L.
        confidence: at the exit it took, or at the last exit checked; in [0, 1]; ``None`` where no
            exit was checked.
        full_depth: the full-depth model's most likely token after the same prefix, or ``None``
            without a reference.
        reference_pass: the token that the reference's parallel pass emits, where ``full_depth`` is
            the run's own token by definition; elsewhere ``None``.
    """

    position: int
    token: int
    emitted: int
    layers_used: int
    confidence: float | None
    full_depth: int | None
    reference_pass: int | None = None


class DraftRound(NamedTuple):
    """One draft of a lossless answer, and its verification at full depth.

    Attributes:
        start: tokens of the answer before it.
        inputs: tokens that ran all layers for it; full-depth logits were read after each.
        drafted: token ids that exits emitted, in order.
        depths: layers run before each of these exited, 1..L-1.
        accepted: length of the longest prefix of ``drafted`` that equals full depth's tokens.
        checked: whether exits were checked for the last input, and it exited at none of them.
    """

    start: int
    inputs: int
    drafted: tuple[int, ...]
    depths: tuple[int, ...]
    accepted: int
    checked: bool = False

    @property
    def checks(self) -> int:
        """Number of exit checks made for it."""
        return len(self.drafted) + (self.checked and self.inputs > len(self.drafted))

    @property
    def tokens(self) -> int:
        """Tokens of the answer that it gave: the accepted ones, and full depth's own after them."""
        return min(self.accepted + 1, self.inputs)

    def to_json(self) -> list[Any]:
        """All but ``start``, as JSON values."""
        drafted, depths = list(self.drafted), list(self.depths)
        return [self.inputs, self.accepted, self.checked, drafted, depths]

    @staticmethod
    def is_json(value: object) -> bool:
        """Whether `to_json` may have given ``value``."""
        if not isinstance(value, list) or len(value) != 5 or not isinstance(value[2], bool):
            return False
        inputs, accepted, _, drafted, depths = value
        if not isinstance(drafted, list) or not isinstance(depths, list):
            return False
        counts = [inputs, accepted, *drafted, *depths]
        if not all(type(one) is int and one >= 0 for one in counts):
            return False
        whole = len(drafted) == len(depths) and inputs - len(drafted) in {0, 1}
        return whole and accepted <= len(drafted) and inputs > 0

    @classmethod
    def from_json(cls, start: int, value: Sequence[Any]) -> DraftRound:
        """The round that `to_json` wrote."""
        inputs, accepted, checked, drafted, depths = value
        return cls(start, inputs, tuple(drafted), tuple(depths), accepted, checked)


class Noise(NamedTuple):
    """Tokens known to be full depth's, compared with a second full-depth pass over them.

    Attributes:
        compared: tokens compared.
        differing: those on which the second pass emits another token.
    """

    compared: int = 0
    differing: int = 0

    @classmethod
    def of(cls, pairs: Iterable[tuple[int | None, int | None]]) -> Noise:
        """Counts over pairs (full depth's token, the second pass's token or ``None``)."""
        differs = [full != again for full, again in pairs if again is not None]
        return cls(len(differs), sum(differs))

    @property
    def rate(self) -> float | None:
        """Share that differs, in [0, 1]; ``None`` where nothing was compared."""
        return self.differing / self.compared if self.compared else None

    def pooled(self, other: Noise) -> Noise:
        """Both counts together."""
        return Noise(self.compared + other.compared, self.differing + other.differing)


@dataclass(frozen=True, slots=True)
class AnswerTrace:
    """One answer's tokens and depths, one entry per emitted token in every tuple.

    >>> trace = AnswerTrace(3, (7, 8), (7, 8), (4, 16), (0.95, 0.4), full_depth=(7, 9))
    >>> trace.agreeing
    1
    >>> [row.layers_used for row in trace.rows()]
    [4, 16]

    Attributes:
        prompt_tokens: tokens prefilled: the prompt without its last token.
        tokens: the answer's token ids.
        emitted: the exits' tokens; equal to ``tokens`` for generated text.
        layers_used: decoder layers run for each token, 1..L.
        confidence: in [0, 1], ``None`` where no exit was checked.
        full_depth: full depth's most likely token after the same prefix; ``None`` without a
            reference.
        reference_pass: tokens of the reference's parallel pass, where ``full_depth`` is known
            without it (``core.full_depth``), else ``None``; ``None`` where no such pass was made.
            The rate at which the two differ is the noise floor of ``agreement``.
        text_tokens: how many tokens, from the first, contribute at least one character to the text
            before the stop, trailing white space aside; 0 for a text of white space alone. ``None``
            for scored continuations, which have no stop: all of their tokens are text.
        rounds: the drafts of a lossless answer, in order; ``None`` where none were made.
        prompt_exit: layers that the prefilled tokens ran; ``None`` for all.
    """

    prompt_tokens: int
    tokens: tuple[int, ...]
    emitted: tuple[int, ...]
    layers_used: tuple[int, ...]
    confidence: tuple[float | None, ...]
    full_depth: tuple[int, ...] | None = None
    reference_pass: tuple[int | None, ...] | None = None
    text_tokens: int | None = None
    rounds: tuple[DraftRound, ...] | None = None
    prompt_exit: int | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.tokens), len(self.emitted), len(self.layers_used), len(self.confidence)}
        if self.full_depth is not None:
            lengths.add(len(self.full_depth))
        if self.reference_pass is not None:
            lengths.add(len(self.reference_pass))
        if len(lengths) != 1:
            raise ValueError(f"a trace has one entry per token in every field, got {lengths}")
        if self.text_tokens is not None and not 0 <= self.text_tokens <= len(self):
            raise ValueError(f"{self.text_tokens} text tokens of {len(self)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self) -> list[TokenRow]:
        """The answer token by token."""
        full: tuple[int | None, ...] = self.full_depth or (None,) * len(self)
        again: tuple[int | None, ...] = self.reference_pass or (None,) * len(self)
        columns = (self.tokens, self.emitted, self.layers_used, self.confidence, full, again)
        return [TokenRow(i, *row) for i, row in enumerate(zip(*columns, strict=True))]

    @property
    def text(self) -> AnswerTrace:
        """The answer without the tokens that only make the stop sequence."""
        if self.text_tokens is None or self.text_tokens == len(self):
            return self
        end = self.text_tokens
        return replace(
            self,
            tokens=self.tokens[:end],
            emitted=self.emitted[:end],
            layers_used=self.layers_used[:end],
            confidence=self.confidence[:end],
            full_depth=None if self.full_depth is None else self.full_depth[:end],
            reference_pass=None if self.reference_pass is None else self.reference_pass[:end],
            rounds=None
            if self.rounds is None
            else tuple(one for one in self.rounds if one.start < end),
        )

    @property
    def agreeing(self) -> int | None:
        """How many emitted tokens equal full depth's; ``None`` without a reference."""
        if self.full_depth is None:
            return None
        return sum(a == b for a, b in zip(self.emitted, self.full_depth, strict=True))

    @property
    def noise(self) -> Noise:
        """Differences of the reference's parallel pass from tokens known to be full depth's."""
        return Noise.of((row.full_depth, row.reference_pass) for row in self.rows())


@dataclass(frozen=True, slots=True)
class FlopsBreakdown:
    """FLOPs of one or several answers, by item, 2 per multiply-add.

    >>> bill = FlopsBreakdown(layers=60, checks=15, full_depth=100)
    >>> bill.spent, bill.flops_saved
    (75, 0.25)

    Attributes:
        prompt: the prefill, with the state of layers that prompt tokens skip; never part of
            ``spent``.
        layers: decoder layers run for answer tokens, attention at its real context.
        checks: exits checked: norm, classifier, translator, vocabulary projection where it is read.
        projection: the emission's norm and vocabulary projection where no check had made it.
        propagation: the state of skipped layers.
        recomputation: layers that pending tokens run later, under ``recompute``.
        verification: drafts checked at full depth.
        full_depth: the same answer tokens at full depth.
        prompt_saved: what the prefill would cost more if prompt tokens ran all layers.
    """

    prompt: int = 0
    layers: int = 0
    checks: int = 0
    projection: int = 0
    propagation: int = 0
    recomputation: int = 0
    verification: int = 0
    full_depth: int = 0
    prompt_saved: int = 0

    @property
    def spent(self) -> int:
        """FLOPs of the answer's tokens: every item but the prompt."""
        return (
            self.layers
            + self.checks
            + self.projection
            + self.propagation
            + self.recomputation
            + self.verification
        )

    @property
    def flops_saved(self) -> float:
        """Net share saved over answer tokens: 1 - spent / full depth; may be negative."""
        return 1.0 - self.spent / self.full_depth if self.full_depth else 0.0

    @property
    def flops_saved_total(self) -> float:
        """The same with the prompt in both; may be negative."""
        whole = self.total_full_depth
        return 1.0 - (self.prompt + self.spent) / whole if whole else 0.0

    @property
    def total_full_depth(self) -> int:
        """FLOPs of the prompt and the answer's tokens at full depth."""
        return self.prompt + self.prompt_saved + self.full_depth

    def __add__(self, other: FlopsBreakdown) -> FlopsBreakdown:
        return FlopsBreakdown(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(FlopsBreakdown))
        )


Reference = str | tuple[float, bool] | float
"""The full-depth model's own response: a text, a score and whether it is greedy, or a total."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The record of one response.

    Attributes:
        fingerprint: identifies the model and every setting that can change a number.
        traces: the answers behind the response: one, or one per window of a rolling likelihood.
        bill: their FLOPs, the tokens of the stop sequence included.
        reference: the full-depth response, or ``None`` without a reference.
        text_bill: their FLOPs without the tokens that only make the stop; ``None`` where there are
            no such tokens.
        attached: of each answer, an object that a runner attached; empty or ``None`` for none.
    """

    fingerprint: str
    traces: tuple[AnswerTrace, ...]
    bill: FlopsBreakdown
    reference: Reference | None = None
    text_bill: FlopsBreakdown | None = None
    attached: tuple[Any, ...] = ()

    @property
    def billed_text(self) -> FlopsBreakdown:
        """FLOPs without the tokens that only make the stop sequence."""
        return self.bill if self.text_bill is None else self.text_bill
