"""Responses of the types that lm-eval expects, each with the record of how it was computed.

They carry it through lm-eval's filters and response caches, which pickle them.
"""

from __future__ import annotations

from dynamax_lm.core.trace import ExitRecord


class TracedText(str):
    """A generated text that carries its record through pickles and lm-eval's caches.

    lm-eval rebuilds responses as ``type(response)(gold)``, hence the optional record.
    """

    __slots__ = ("record",)
    record: ExitRecord | None

    def __new__(cls, text: object = "", record: ExitRecord | None = None) -> TracedText:
        """A text and its record."""
        self = super().__new__(cls, text)
        self.record = record
        return self

    def __reduce__(self) -> tuple[type[TracedText], tuple[str, ExitRecord | None]]:
        return type(self), (str(self), self.record)


class TracedScore(tuple[float, bool]):
    """A ``(log-likelihood, is greedy)`` pair that carries its record."""

    record: ExitRecord | None

    def __new__(
        cls, pair: tuple[float, bool] = (0.0, False), record: ExitRecord | None = None
    ) -> TracedScore:
        """A pair and its record."""
        self = super().__new__(cls, pair)
        self.record = record
        return self

    def __reduce__(self) -> tuple[type[TracedScore], tuple[tuple[float, bool], ExitRecord | None]]:
        return type(self), ((self[0], self[1]), self.record)


class TracedTotal(float):
    """A rolling log-likelihood that carries its record."""

    __slots__ = ("record",)
    record: ExitRecord | None

    def __new__(cls, value: float = 0.0, record: ExitRecord | None = None) -> TracedTotal:
        """A log-likelihood and its record."""
        self = super().__new__(cls, value)
        self.record = record
        return self

    def __reduce__(self) -> tuple[type[TracedTotal], tuple[float, ExitRecord | None]]:
        return type(self), (float(self), self.record)


def record_of(response: object) -> ExitRecord | None:
    """The record a response carries, or ``None`` (another model's response, or a rebuilt one).

    >>> import dynamax_lm
    >>> from lm_eval.api.instance import Instance
    >>> lm = dynamax_lm.load("tiny").lm
    >>> request = Instance("generate_until", {}, ("Hello", {"max_gen_toks": 3}), 0)
    >>> (response,) = lm.generate_until([request], disable_tqdm=True)
    >>> (trace,) = record_of(response).traces
    >>> len(trace.layers_used)
    3
    """
    record = getattr(response, "record", None)
    return record if isinstance(record, ExitRecord) else None
