"""How often comparisons of a report say what is not so, and find what is.

    python -m benchmarks.validity.comparisons

Documents are drawn, with replacement, from the populations of ``populations.py``; each has a rule
and a static mixture of exactly the same mean agreement, so that every claim is false. Owns the
draws and the tables. ``old`` is what reports used before: percentile intervals of 2,000 resamples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from benchmarks.validity.populations import LAYERS, Floats, Population, populations, read
from dynamax_lm.headroom.ceiling import Prices
from dynamax_lm.intervals import LEVEL, SHARE, Bounds, p_at_least, p_at_most
from dynamax_lm.ledger import AttentionCosts, norm_flops, unembed_flops
from dynamax_lm.models.checkpoint import ATTENTION, resolve_name

COUNTS = (6, 10, 20, 40, 100, 300, 1000)
GAPS = (0.02, 0.05, 0.10)
SIDE = (1 - LEVEL) / 2
_RESAMPLES = 2000
_AT_ONCE = 1 << 21

Draw = Callable[[Population, int, np.random.Generator], Floats]
"""Gaps of so many documents of a population."""
Method = Callable[[Floats, float, Bounds, np.random.Generator], tuple[bool, bool]]
"""Whether values show their mean to be above a given one, and below it."""


class Rates(NamedTuple):
    """Shares of draws.

    Attributes:
        higher: that say the rule is better.
        lower: that say it is worse.
    """

    higher: float
    lower: float


def old(values: Floats, mean: float, bounds: Bounds, rng: np.random.Generator) -> tuple[bool, bool]:
    """The percentile bootstrap."""
    del bounds
    if not np.ptp(values):
        return bool(values[0] > mean), bool(values[0] < mean)
    rows = max(1, _AT_ONCE // len(values))
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(rows, _RESAMPLES - at), len(values)))].mean(1)
            for at in range(0, _RESAMPLES, rows)
        ]
    )
    low, high = np.quantile(means, [SIDE, 1 - SIDE])
    return bool(low > mean), bool(high < mean)


def new(values: Floats, mean: float, bounds: Bounds, rng: np.random.Generator) -> tuple[bool, bool]:
    """The betting interval of `dynamax_lm.intervals`, uncorrected: a page of one comparison."""
    del rng
    return p_at_most(values, mean, bounds) <= SIDE, p_at_least(values, mean, bounds) <= SIDE


def expected(worse: float = 0.0) -> Draw:
    """Gaps to what a mixture gives in expectation, as reports compare."""

    def draw(one: Population, count: int, rng: np.random.Generator) -> Floats:
        return one.gaps(worse)[rng.integers(0, len(one.rule), count)]

    return draw


def randomised(one: Population, count: int, rng: np.random.Generator) -> Floats:
    """Gaps to a baseline that really draws one depth for each document."""
    chosen = rng.integers(0, len(one.rule), count)
    theirs = np.where(rng.random(count) < one.share, 1.0, one.shallow[chosen])
    return one.rule[chosen] - theirs


def of_the_same_cost(one: Population, count: int, rng: np.random.Generator) -> Floats:
    """Gaps to the mixture that costs what the rule did *on the documents drawn*.

    The rule's FLOPs are scaled so that over the whole population the mixture of equal cost is the
    one of equal agreement; in a draw its odds differ from that by chance.
    """
    costs = tiny_costs()
    emission, layers = norm_flops(costs) + unembed_flops(costs), costs.layer(100) * LAYERS
    shallow = (emission + layers * one.depth / LAYERS) / (emission + layers)
    truth = shallow + one.share * (1 - shallow)
    factor = truth * one.full.sum() / one.spent.sum()
    chosen = rng.integers(0, len(one.rule), count)
    cost = factor * one.spent[chosen].sum() / one.full[chosen].sum()
    share = min(1.0, max(0.0, (cost - shallow) / (1 - shallow)))
    return one.rule[chosen] - (1 - share) * one.shallow[chosen] - share


def claims(
    one: Population, count: int, draws: int, method: Method, draw: Draw, seed: int = 0
) -> Rates:
    """How often each claim is made of ``count`` documents."""
    rng = np.random.default_rng([seed, count])
    said = np.zeros(2)
    for _ in range(draws):
        said += method(draw(one, count, rng), 0.0, SHARE.of_gaps, rng)
    return Rates(*(said / draws).tolist())


def missed(
    values: Floats, bounds: Bounds, count: int, draws: int, method: Method, seed: int = 0
) -> float:
    """How often the interval of a plain mean, as headroom prints it, leaves the true one out."""
    rng = np.random.default_rng([seed, count])
    mean = float(values.mean())
    times = (method(rng.choice(values, count), mean, bounds, rng) for _ in range(draws))
    return sum(any(sides) for sides in times) / draws


def plain_means() -> Iterator[tuple[str, Floats, Bounds]]:
    """Per-document values of which headroom gives means: their name, values and bounds."""
    columns = read()
    yield "agreement of layer 8", columns["none_layer_8"] / columns["tokens"], SHARE
    yield "agreement of layer 14, affine", columns["affine_layer_14"] / columns["tokens"], SHARE
    saved = 1 - columns["none_top_prob_0.7_flops"] / columns["full_depth_flops"]
    bounds = Prices(tiny_costs(), (8, 10, 12, 14), "top_prob", "propagate").bounds
    yield "share of FLOPs saved", saved, bounds


def tiny_costs() -> AttentionCosts:
    """The embedded Mistral's."""
    with open(f"{resolve_name('tiny', ATTENTION)}/config.json", encoding="utf-8") as file:
        return AttentionCosts.from_config(SimpleNamespace(**json.load(file)))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validity.comparisons")
    parser.add_argument("--draws", type=int, default=400, help="of the documents, per cell")
    draws = parser.parse_args(argv).draws
    head = "| population | " + " | ".join(f"n = {n}" for n in COUNTS) + " |"
    rule = "| --- |" + " --- |" * len(COUNTS)
    false: dict[str, tuple[Method, Draw]] = {
        "old": (old, expected()),
        "new": (new, expected()),
        "new, one depth drawn for each document": (new, randomised),
        "old, depth of the same cost in each draw": (old, of_the_same_cost),
        "new, depth of the same cost in each draw": (new, of_the_same_cost),
    }
    for title, (method, draw) in false.items():
        print(f"\n{title}: false 'better' / false 'worse', %\n\n{head}\n{rule}")
        for one in populations():
            rates = (claims(one, n, draws, method, draw) for n in COUNTS)
            _line(one.name, (f"{100 * r.higher:.1f} / {100 * r.lower:.1f}" for r in rates))
    for gap in GAPS:
        print(f"\nnew: a true gap of {100 * gap:.0f} points is found, %\n\n{head}\n{rule}")
        for one in populations():
            try:
                found = [claims(one, n, draws, new, expected(gap)).higher for n in COUNTS]
            except ValueError:
                continue  # no mixture of these depths is so much worse
            _line(one.name, (f"{100 * rate:.0f}" for rate in found))
    for name, method in (("old", old), ("new", new)):
        print(f"\n{name}: coverage of a plain mean's interval, %\n\n{head}\n{rule}")
        for what, values, bounds in plain_means():
            misses = (missed(values, bounds, n, draws, method) for n in COUNTS)
            _line(what, (f"{100 - 100 * rate:.1f}" for rate in misses))


def _line(name: str, cells: Iterator[str]) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
