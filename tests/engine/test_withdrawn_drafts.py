"""A rejected draft leaves no trace in the layers' state, nor in that of the heads."""

from __future__ import annotations

import pytest

from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.lossless import decode_lossless
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.score import ScoreRequest, score
from tests.builders import STACKS, never, random_model
from tests.engine.drafts import KINDS, LAYERS
from tests.heads.builders import heads_of

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_rejected_tokens_leave_the_heads_state(kind: str) -> None:
    """Confidences are those of the emitted text alone, whatever was drafted in between."""
    rejected = compared = 0
    for seed in range(6):
        model = random_model(kind, 4, seed=seed)
        stack = STACKS[kind](model)
        heads = heads_of(model, (2,), seed, classifier="mamba")
        policy = ExitPolicy((2,), "head", 0.05)
        asked = [GenerateRequest((1 + seed, 2, 3), 12, never), GenerateRequest((3, 1), 12, never)]
        ours = generate(stack, asked, policy=policy, heads=heads, draft_length=32)
        pairs = zip(asked, ours, strict=True)
        rescored = [ScoreRequest(one.prompt, answer.trace.tokens) for one, answer in pairs]
        never_exits = ExitPolicy((2,), "head", 1.0)
        theirs = score(stack, rescored, policy=never_exits, heads=heads)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.trace.rounds is not None
            rejected += sum(len(r.drafted) - r.accepted for r in mine.trace.rounds)
            for a, b in zip(mine.trace.confidence, other.trace.confidence, strict=True):
                if a is not None and b is not None:
                    assert a == pytest.approx(b, abs=1e-4)
                    compared += 1
    assert rejected > 20
    assert compared > 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exit_layer", [1, 3])
def test_a_withdrawn_draft_leaves_full_depths_state(kind: str, exit_layer: int) -> None:
    """After rejections, every layer has seen the accepted tokens and goes on as full depth does."""
    stack = STACKS[kind](random_model(kind, LAYERS, seed=5))
    asked = [GenerateRequest((1, 2, 3, 4), 14, never), GenerateRequest((5, 6), 14, never)]
    prompts_ = [one.prompt for one in asked]
    ours, theirs = prefill(stack, prompts_), prefill(stack, prompts_)
    first, second = [Progress(), Progress()], [Progress(), Progress()]
    policy = ExitPolicy((exit_layer,), "top_prob", 0.0)
    decode_lossless(stack, ours, asked, first, policy, None, 6)
    decode(stack, theirs, asked, second, FULL_DEPTH, "propagate", None)
    assert any(r.accepted < len(r.drafted) for row in first for r in row.rounds)
    longer = [GenerateRequest(one.prompt, 20, never) for one in asked]
    behind = [len(row.tokens) for row in second]
    assert [row.tokens for row in first] == [row.tokens for row in second]
    for layer in range(LAYERS):
        given_ = [len(one.prompt) - 1 + count for one, count in zip(asked, behind, strict=True)]
        assert theirs.seen(layer) == given_  # type: ignore[attr-defined]
        slack = [a - b for a, b in zip(ours.seen(layer), given_, strict=True)]  # type: ignore[attr-defined]
        most = max(row.rounds[-1].inputs for row in first)
        assert all(0 <= one <= most for one in slack), "only what follows the end may be left over"
    if all(a == b for a, b in zip(ours.seen(0), theirs.seen(0), strict=True)):  # type: ignore[attr-defined]
        for state, rows in ((ours, first), (theirs, second)):
            decode(stack, state, longer, rows, FULL_DEPTH, "propagate", None)
        assert [row.tokens for row in first] == [row.tokens for row in second]
