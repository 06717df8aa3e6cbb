"""What fixed depths cost, as shares of full depth's FLOPs over the tokens of a run.

A fixed depth is a model of fewer layers, and billed as one: layers that never run keep no state, no
exit is checked, a translator is billed where the depth has one, and a model of k layers prefills k
layers. There are two accounts, since a dynamic setting prefills at full depth or up to its own
prompt exit: answer tokens without prompts, and both.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from dynamax_lm.core.fixed_depth import FixedDepths
from dynamax_lm.report.costs import costs_of, exit_extras_of
from dynamax_lm.report.rows import Row, static_depth

Account = Literal["answer", "total"]
"""The account of equal FLOPs: answer tokens alone, or prompts and answers together."""

ACCOUNTS: tuple[Account, ...] = ("answer", "total")


class DepthBill(NamedTuple):
    """Costs of the tokens at every depth, by one account, as shares of full depth's FLOPs.

    Attributes:
        spent: by the run, mean over documents.
        fixed: all tokens together at every depth, in FLOPs.
        layers: L.
        whole: FLOPs of all tokens at full depth.
    """

    spent: float
    fixed: FixedDepths
    layers: int
    whole: float

    def at(self, depth: float, translator: int = 0) -> float:
        """The share of the fixed depth ``depth``, with ``translator`` FLOPs for each emission."""
        return self.fixed.at(depth, translator) / self.whole

    def depth(self, share: float) -> float:
        """The depth of that share, without a translator."""
        return self.fixed.depth(share * self.whole)


def saving_of(row: Row, account: Account = "answer") -> float | None:
    """What a row's point stands for: net share of FLOPs saved, by default over answer tokens.

    Of a fixed depth it is what a model of so many layers saves over the run's tokens, as in a
    baseline, without the state of layers that never run and the checks that the run was billed for;
    of any other row, and where widths are not known, the run's own mean. ``None`` without one.
    """
    saved = row.flops_saved if account == "answer" else row.flops_saved_total
    if saved is None:
        return None
    depth, translator, bill = static_depth(row.run), translator_flops(row), bill_of(row, account)
    if depth is None or translator is None or bill is None:
        return saved.mean
    return 1 - bill.at(depth, translator)


def bill_of(row: Row, account: Account, spent: float | None = None) -> DepthBill | None:
    """One account. Prompts have no emission: their last token counts with the answer.

    Layers that cost the same are linear in depth, in prompts and answers alike.
    """
    costs, totals = costs_of(row.run), row.run.totals(row.task)
    saved = row.flops_saved if account == "answer" else row.flops_saved_total
    if costs is None or saved is None or not totals or not totals.get("tokens"):
        return None
    flops, tokens = totals["ledger"]["flops"], totals["tokens"]
    prompt = flops["prompt"] + flops.get("prompt_saved", 0)
    whole = flops["full_depth"] + (prompt if account == "total" else 0)
    emission = FixedDepths.of(costs, 0.0, tokens).emission
    passed = tokens + (totals["prompt_tokens"] if account == "total" else 0)
    fixed = FixedDepths.of(costs, (whole - emission) / costs.n_layers, tokens, passed)
    return DepthBill(1 - saved.mean if spent is None else spent, fixed, costs.n_layers, whole)


def translator_flops(static: Row) -> int | None:
    """FLOPs per token of a static run's translator; ``None`` if unknown."""
    extras = exit_extras_of(static.run)
    if extras is None:
        return None
    return extras[0].translator if extras else 0
