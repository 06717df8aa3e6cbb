"""What the ledger bills for drafts, accepted and rejected."""

from __future__ import annotations

from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.trace import DraftRound
from dynamax_lm.decoders.costs.attention import AttentionCosts

COSTS = AttentionCosts(
    n_layers=8, width=16, feedforward=32, query_heads=4, kv_heads=2, head_dim=4, vocabulary=50
)


def test_a_perfect_draft_costs_full_depth_and_its_checks() -> None:
    ledger = Ledger(COSTS, exit_layers=(3,), confidence="top_prob", skipped_state="recompute")
    full = Ledger(COSTS).answer(10, (8,) * 4)
    one = DraftRound(0, 4, (1, 2, 3), (3, 3, 3), 3, checked=False)
    bill = ledger.lossless(10, [one], 4)
    check = ledger.answer(10, (3,)).checks
    assert bill.full_depth == full.full_depth
    assert bill.spent == full.spent + 3 * check
    assert bill.verification == sum(
        COSTS.layers(position, 3, 8) + full.projection // 4 for position in (10, 11, 12)
    )


def test_rejected_tokens_are_paid_for() -> None:
    ledger = Ledger(COSTS, exit_layers=(3,), confidence="top_prob", skipped_state="recompute")
    accepted = ledger.lossless(0, [DraftRound(0, 3, (1, 2), (3, 3), 2)], 3)
    rejected = ledger.lossless(
        0, [DraftRound(0, 3, (1, 2), (3, 3), 0), DraftRound(1, 2, (4,), (3,), 1)], 3
    )
    assert rejected.full_depth == accepted.full_depth
    assert rejected.spent > accepted.spent
    assert accepted.flops_saved > rejected.flops_saved


def test_a_cheap_look_drafts_without_the_exact_projection() -> None:
    exact, cheap = (
        Ledger(COSTS, exit_layers=(3,), confidence=name, skipped_state="recompute")
        for name in ("top_prob", "top_prob|rank:2")
    )
    one = DraftRound(0, 3, (1, 2), (3, 3), 2)
    ours, theirs = cheap.lossless(0, [one], 3), exact.lossless(0, [one], 3)
    assert ours.projection == theirs.projection
    assert ours.checks < theirs.checks
