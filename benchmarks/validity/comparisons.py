"""False claims and power of a report's comparisons.

    python -m benchmarks.validity.comparisons

Documents are drawn, with replacement, from the populations of ``populations.py``; each has a rule
and a static mixture of exactly the same mean agreement, so that every claim is false. ``old`` is
what reports used before: percentile intervals of 2,000 resamples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.validity.populations import (
    EXITS,
    LAYERS,
    Floats,
    Population,
    populations,
    read,
)
from dynamax_lm.common.intervals import LEVEL, SHARE, Bounds, p_at_least, p_at_most
from dynamax_lm.core.costs import norm_flops, unembed_flops
from dynamax_lm.decoders.checkpoint import ATTENTION, resolve_name
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.headroom.ceiling import Prices
from dynamax_lm.report.equal_cost import Path, at_equal_cost

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
        higher: that claim the rule is better.
        lower: that claim it is worse.
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
    """The betting interval of ``common.intervals``, uncorrected: a page of one comparison."""
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


def of_the_same_cost(
    one: Population, count: int, rng: np.random.Generator, *, further: bool = False
) -> tuple[Floats, Path, Floats, Bounds]:
    """The rule, the fixed depths and the rule's cost on documents drawn, and bounds of a cost.

    Measured are the population's two depths, and with ``further`` those in between, too.

    The rule's FLOPs are scaled so that over the whole population the mixture of equal cost is the
    one of equal agreement; in a draw the depth of equal cost differs from that by chance.
    """
    costs = tiny_costs()
    emission, layers = norm_flops(costs) + unembed_flops(costs), costs.layer(100) * LAYERS
    between = one.further if further else ()
    depths = np.array([one.depth, *(depth for depth, _ in between), LAYERS])
    measured = (emission + layers * depths / LAYERS) / (emission + layers)
    shallow = float(measured[0])
    share = one.spent / one.full
    factor = (shallow + one.share * (1 - shallow)) / share.mean()
    checks = len(EXITS) * (emission + 4 * costs.width**2)  # a translator costs less than that
    highest = 1 + checks / (costs.layer(0) * LAYERS + emission)
    chosen = rng.integers(0, len(one.rule), count)
    values = [one.shallow, *(agreement for _, agreement in between), np.ones(len(one.rule))]
    path = Path(measured, np.stack(values)[:, chosen], whole=True)
    spread = Bounds(factor * EXITS[0] / LAYERS, factor * highest)
    return one.rule[chosen], path, factor * share[chosen], spread


def claims_at_equal_cost(one: Population, count: int, draws: int, method: str) -> Rates:
    """How often each claim is made where the depth of equal cost is found from the same documents.

    Args:
        one: the population.
        count: documents drawn.
        draws: how many times.
        method: ``old``, ``depth taken for known`` (betting, at the depth found), or ``new``.
    """
    if method == "new":
        return Rates(*verdicts(one, count, draws).mean(0).tolist())
    rng = np.random.default_rng([1, count])
    said = np.zeros(2)
    for _ in range(draws):
        rule, path, costs, _ = of_the_same_cost(one, count, rng)
        gaps = rule - path.best(float(costs.mean()))
        said += (old if method == "old" else new)(gaps, 0.0, SHARE.of_gaps, rng)
    return Rates(*(said / draws).tolist())


def verdicts(
    one: Population, count: int, draws: int, *, further: bool = False
) -> NDArray[np.bool_]:
    """(draws, 2) whether a report claims better, and worse; the same draws with further depths."""
    rng, said = np.random.default_rng([1, count]), []
    for _ in range(draws):
        rule, path, costs, spread = of_the_same_cost(one, count, rng, further=further)
        found = at_equal_cost(rule.tolist(), path, costs.tolist(), SHARE, spread)
        said.append((found.p_higher <= SIDE, found.p_lower <= SIDE))
    return np.array(said)


def nearest(one: Population, count: int, draws: int) -> Rates:
    """How often each claim is made against the mixture of the two nearest of all depths."""
    rng, said = np.random.default_rng([1, count]), np.zeros(2)
    for _ in range(draws):
        rule, path, costs, _ = of_the_same_cost(one, count, rng, further=True)
        place = int(np.searchsorted(path.costs, costs.mean()).clip(1, len(path.costs) - 1))
        two = Path(path.costs[place - 1 : place + 1], path.values[place - 1 : place + 1], True)
        gaps = rule - two.best(float(costs.mean()))
        said += new(gaps, 0.0, SHARE.of_gaps, rng)
    return Rates(*(said / draws).tolist())


def better_by(one: Population, gap: float) -> Population:
    """The rule agrees ``gap`` more than its equal in cost; negative where it agrees less.

    Raises:
        ValueError: no mixture agrees so much more or less.
    """
    share = one.share - gap / float(1 - one.shallow.mean())
    if not 0 <= share <= 1:
        raise ValueError(f"{one.name}: no mixture is {gap} away")
    return replace(one, share=share)


def claims(
    one: Population, count: int, draws: int, method: Method, draw: Draw, seed: int = 0
) -> Rates:
    """How often each claim is made of ``count`` documents."""
    rng = np.random.default_rng([seed, count])
    said = np.zeros(2)
    for _ in range(draws):
        said += method(draw(one, count, rng), 0.0, SHARE.of_gaps, rng)
    return Rates(*(said / draws).tolist())


def found_at_equal_cost(one: Population, gap: float, count: int, draws: int) -> float:
    """How often a rule is shown to be better that agrees ``gap`` more than its equal in cost."""
    return claims_at_equal_cost(better_by(one, gap), count, draws, "new").higher


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
    bounds = Prices(tiny_costs(), EXITS, "top_prob", "propagate").bounds
    yield "share of FLOPs saved", saved, bounds


@cache
def tiny_costs() -> AttentionCosts:
    """The embedded Mistral's."""
    with open(f"{resolve_name('tiny', ATTENTION)}/config.json", encoding="utf-8") as file:
        return AttentionCosts.from_config(SimpleNamespace(**json.load(file)))


def _false(draws: int) -> None:
    ways: dict[str, tuple[Method, Draw]] = {
        "old": (old, expected()),
        "new": (new, expected()),
        "new, one depth drawn for each document": (new, randomised),
    }
    for title, (method, draw) in ways.items():
        _head(f"{title}: false 'better' / false 'worse', %")
        for one in populations():
            _line(one.name, (_both(claims(one, n, draws, method, draw)) for n in COUNTS))


def _cost(draws: int) -> None:
    for way in ("old", "depth taken for known", "new"):
        _head(f"{way}, depth of equal cost: false 'better' / false 'worse', %")
        for one in populations():
            rates = (claims_at_equal_cost(one, n, draws, way) for n in COUNTS)
            _line(one.name, map(_both, rates))


def _measured(draws: int) -> None:
    """Ties and rules that are worse, with the population's two depths measured, and with all."""
    for loss in (0.0, 0.01, 0.02):
        for further in (False, True):
            _head(f"{100 * loss:.0f} points worse, {'all' if further else 'two'} depths measured")
            for one in _outer_best():
                worse = better_by(one, -loss)
                said = (verdicts(worse, n, draws, further=further) for n in COUNTS)
                _line(one.name, (_both(Rates(*rates.mean(0).tolist())) for rates in said))
        _head(f"{100 * loss:.0f} points worse, the two nearest of all depths, known cost")
        for one in _outer_best():
            worse = better_by(one, -loss)
            _line(one.name, (_both(nearest(worse, n, draws)) for n in COUNTS))


def _outer_best() -> list[Population]:
    """Five depths of which the outer two make the best mixture, with room for a worse rule."""
    return [one for one in populations() if len(one.further) == len(EXITS) - 1][:1]


def _power(draws: int) -> None:
    for title, at_cost in (("a given depth", False), ("a depth of equal cost", True)):
        _head(f"new: a true gap to {title} is found, %")
        for one in populations():
            for gap in GAPS:
                if gap > one.share * (1 - one.shallow.mean()):
                    continue  # no mixture of these depths is so much worse
                if at_cost:
                    found = (found_at_equal_cost(one, gap, n, draws) for n in COUNTS)
                else:
                    found = (claims(one, n, draws, new, expected(gap)).higher for n in COUNTS)
                _line(f"{one.name}: {100 * gap:.0f} points", (f"{100 * r:.0f}" for r in found))


def _mean(draws: int) -> None:
    for name, method in (("old", old), ("new", new)):
        _head(f"{name}: coverage of a plain mean's interval, %")
        for what, values, bounds in plain_means():
            misses = (missed(values, bounds, n, draws, method) for n in COUNTS)
            _line(what, (f"{100 - 100 * rate:.1f}" for rate in misses))


PARTS: dict[str, Callable[[int], None]] = {
    "false": _false,
    "cost": _cost,
    "measured": _measured,
    "power": _power,
    "mean": _mean,
}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validity.comparisons")
    parser.add_argument("--draws", type=int, default=400, help="of the documents, per cell")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    options = parser.parse_args(argv)
    for part in options.parts:
        PARTS[part](options.draws)


def _both(rates: Rates) -> str:
    return f"{100 * rates.higher:.1f} / {100 * rates.lower:.1f}"


def _head(title: str) -> None:
    names = " | ".join(f"n = {count}" for count in COUNTS)
    print(f"\n{title}\n\n| population | {names} |\n| --- |" + " --- |" * len(COUNTS))


def _line(name: str, cells: Iterable[str]) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
