"""Steps of static shape, counted, and requests of unequal lengths."""

from __future__ import annotations

from typing import Any

from dynamax_lm.decoders.recorded_steps import RecordedSteps
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import never

LONG_AND_SHORT = [
    GenerateRequest(prompt, new, never)
    for prompt, new in [((5, 9, 2) * 8, 7), ((3,), 20), ((7, 1) * 3, 14), ((8, 4), 9)]
]


class Counted(RecordedSteps):
    """Counts the steps that are of static shape."""

    def __init__(self, decoder: Any, *, records: bool = True) -> None:
        super().__init__(decoder, records=records)
        self.steps = 0
        self.rows: set[int] = set()

    def run(self, *given: Any) -> Any:
        output = super().run(*given)
        self.steps += output is not None
        self.rows |= {shape.rows for shape in given[0].recorded}
        return output
