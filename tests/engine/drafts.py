"""What tests of lossless generation share: kinds, measures, stops, and what rounds add up to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dynamax_lm.engine.generate import GeneratedAnswer
from dynamax_lm.engine.requests import GenerateRequest
from tests.builders import never

KINDS = ["mistral", "llama", "mamba2"]
MEASURES = ["top_prob", "margin", "entropy", "top_prob|rank:2", "margin|rank:2+shortlist:5"]
LAYERS = 4


def stops_on(divisor: int) -> Any:
    return lambda answer: answer[-1] % divisor == 0


def draw_requests(data: st.DataObject, rows: list[tuple[int, ...]]) -> list[GenerateRequest]:
    stop = data.draw(st.sampled_from([never, stops_on(5), stops_on(11)]))
    return [GenerateRequest(row, data.draw(st.integers(1, 12)), stop) for row in rows]


def check_rounds(answer: GeneratedAnswer) -> None:
    """Rounds account for every token: what is accepted, and one of full depth's own."""
    rounds, trace = answer.trace.rounds, answer.trace
    assert rounds
    for one, after in zip(rounds, [*(r.start for r in rounds[1:]), len(trace)], strict=True):
        assert 0 <= one.accepted <= len(one.drafted) == len(one.depths)
        assert one.inputs in {len(one.drafted), len(one.drafted) + 1}
        assert (
            trace.tokens[one.start : one.start + one.accepted][: after - one.start]
            == (one.drafted[: one.accepted][: after - one.start])
        )
        assert one.tokens == after - one.start == min(one.accepted + 1, one.inputs)
        if one.accepted < len(one.drafted) and one.start + one.accepted < after:
            assert trace.tokens[one.start + one.accepted] != one.drafted[one.accepted]
