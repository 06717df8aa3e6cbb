"""Coverage of the criteria page's intervals, on documents drawn from known populations.

    python -m benchmarks.validity.criteria
    python -m benchmarks.validity.criteria --collect runs/criteria/mistral runs/criteria/mamba

A population is every test document of a finished study, with its numbers at every other threshold
of the grid. There the one threshold of a target, and the saving, the agreement and the distance to
the fixed depths of equal cost there, are known. n documents are drawn, halved, and evaluated as on
the page; the share of intervals that contain the population's value is counted. ``kept`` is an
interval whose thresholds are chosen once and treated as known when documents are drawn again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.criteria.accounts import Floats, Grid, PerDocument, twin_agreement
from benchmarks.criteria.choice import (
    Interval,
    Judged,
    Weights,
    cross_fit,
    interval,
    population_value,
)
from dynamax_lm.common.outputs import replacing

POPULATIONS = Path(__file__).parent / "data" / "criteria.npz"
SIZES = (100, 400, 1286)
TARGET = 0.95
_STEPS = 20_000  # of a stored saving
_RULES = ("top_prob", "margin", "saturation", "linear")
_KEPT = (
    "mistral, none, top_prob",
    "mistral, none, linear",
    "mistral, none, saturation",
    "mistral, affine, margin",
    "mistral, affine, linear",
    "mamba, none, top_prob",
    "mamba, affine, margin",
)
"""Populations that are committed: smooth curves, steep ones, and one that ends at the target."""


class Population(NamedTuple):
    """Documents whose numbers are known.

    Attributes:
        name: backbone, translators and rule.
        grid: every document's numbers at every threshold.
        statics: (E + 1, M) those of fixed depths.
    """

    name: str
    grid: Grid
    statics: PerDocument

    def value(self, target: float) -> tuple[float, float, float]:
        """Saved, agreement, and agreement less that of the fixed depths of equal cost."""
        saved, agreement, _ = population_value(self.grid, target)
        fixed = (column.mean(1)[None] for column in self.statics[:2])
        return saved, agreement, float(agreement - twin_agreement(np.array([saved]), *fixed)[0])

    def draw(self, documents: int, generator: np.random.Generator) -> Population:
        """A sample with replacement."""
        chosen = generator.integers(0, self.statics.saved.shape[1], documents)
        grid = Grid(self.grid.thresholds, self.grid.numbers.of(chosen))
        return Population(self.name, grid, self.statics.of(chosen))


class Coverage(NamedTuple):
    """How often intervals contain the population's value.

    Attributes:
        population: its name.
        documents: drawn.
        saved: share of samples.
        agreement: share of samples.
        gap: share of samples, of the distance to fixed depths of equal cost.
        kept: share of samples for the saving, had thresholds been kept in every draw.
    """

    population: str
    documents: int
    saved: float
    agreement: float
    gap: float
    kept: float


def coverage(
    population: Population,
    documents: int,
    *,
    samples: int,
    draws: int,
    seed: int,
    target: float = TARGET,
) -> Coverage:
    """Draw ``samples`` samples of ``documents``, and count intervals with the true value."""
    generator = np.random.default_rng(seed)
    truth = population.value(target)
    held = np.zeros(4)
    for _ in range(samples):
        sample = population.draw(documents, generator)
        fold = generator.permutation(documents) % 2
        weights = Weights.draw(fold, draws, int(generator.integers(1 << 31)))
        judged = cross_fit(sample.grid, weights, target)
        found = [
            interval(judged.saved),
            interval(judged.agreement),
            interval(judged.agreement - _fixed(sample, judged, weights)),
            _kept(sample.grid, weights, target),
        ]
        truths = (*truth, truth[0])
        held += [low <= true <= high for (low, high), true in zip(found, truths, strict=True)]
    return Coverage(population.name, documents, *(held / samples).tolist())


def _fixed(sample: Population, judged: Judged, weights: Weights) -> Floats:
    saved, agreement = (weights.means(column) for column in sample.statics[:2])
    return twin_agreement(judged.saved, saved, agreement)


def _kept(grid: Grid, weights: Weights, target: float) -> Interval:
    """The interval with the thresholds of the sample in every draw."""
    once = Weights(weights.fold, weights.counts[:1])
    thresholds = cross_fit(grid, once, target).thresholds
    judged = np.zeros(len(weights.fold))
    for number, threshold in enumerate(thresholds):
        mine = weights.fold == number
        at = np.array([np.interp(threshold, grid.thresholds, np.arange(len(grid.thresholds)))])
        low = int(at[0])
        high = min(low + 1, len(grid.thresholds) - 1)
        share = float(at[0]) - low
        saved = (1 - share) * grid.numbers.saved[low] + share * grid.numbers.saved[high]
        judged[mine] = saved[mine]
    return interval(weights.means(judged))


# -- populations ----------------------------------------------------------------------------------


def read_populations(path: Path = POPULATIONS) -> list[Population]:
    """The committed populations."""
    with np.load(path) as kept:
        found = []
        for name in kept["names"].tolist():
            saved = kept[f"{name}/saved"] / _STEPS
            agreement = kept[f"{name}/agreed"] / kept[f"{name}/tokens"]
            statics = (kept[f"{name}/fixed_saved"] / _STEPS, kept[f"{name}/fixed_agreed"])
            fixed_agreement = statics[1] / kept[f"{name}/tokens"]
            grid = Grid(kept[f"{name}/thresholds"], PerDocument(saved, agreement, saved))
            found.append(
                Population(name, grid, PerDocument(statics[0], fixed_agreement, statics[0]))
            )
        return found


def collect(folders: Sequence[Path], path: Path = POPULATIONS) -> None:
    """Write the populations of finished studies of embedded models."""
    columns: dict[str, Any] = {}
    for folder in folders:
        for name, grid, statics, tokens in _study(folder):
            columns |= {
                f"{name}/thresholds": grid.thresholds,
                f"{name}/tokens": tokens.astype(np.uint8),
                f"{name}/saved": np.rint(grid.numbers.saved * _STEPS).astype(np.int16),
                f"{name}/agreed": np.rint(grid.numbers.agreement * tokens).astype(np.uint8),
                f"{name}/fixed_saved": np.rint(statics.saved * _STEPS).astype(np.int16),
                f"{name}/fixed_agreed": np.rint(statics.agreement * tokens).astype(np.uint8),
            }
    columns["names"] = np.array(sorted({key.rpartition("/")[0] for key in columns}))
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **columns)


def _study(folder: Path) -> Iterator[tuple[str, Grid, PerDocument, Floats]]:
    from benchmarks.criteria import states as stored
    from benchmarks.criteria.asking import Exits
    from benchmarks.criteria.study import compare, thresholds
    from dynamax_lm.core.costs import LayerCosts
    from dynamax_lm.decoders.checkpoint import ATTENTION, MAMBA2, resolve_name
    from dynamax_lm.decoders.costs.attention import AttentionCosts
    from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
    from dynamax_lm.heads import ExitHeads

    bank = ExitHeads.from_pretrained(folder / "heads" / "translators")
    attention = bank.config.architecture == "attention"
    costs: LayerCosts = (AttentionCosts if attention else Mamba2Costs).from_config(
        _config(resolve_name("tiny", ATTENTION if attention else MAMBA2))
    )
    states = stored.read(folder / "test")
    states = states.of(np.flatnonzero(states.text > 0).tolist())
    for column in ("none", "affine"):
        with np.load(folder / f"test_{column}.npz") as kept:
            exits = Exits(
                kept["tokens"],
                kept["right"],
                {one: kept[f"by_{one}"] for one in _RULES if one != "linear"},
            )
        heads = {"linear": ExitHeads.from_pretrained(folder / "heads" / column / "linear-full")}
        found = compare(
            column,
            states,
            exits,
            bank if column == "affine" else None,
            heads,
            costs,
            "propagate",
            thresholds(0.4),
        )
        for rule in found.contenders:
            name = f"{'mistral' if attention else 'mamba'}, {column}, {rule.name}"
            if name not in _KEPT:
                continue
            yield name, rule.grid, found.statics, states.text.astype(np.float64)


def _config(name: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validity.criteria",
        description="Coverage of the criteria page's intervals.",
    )
    parser.add_argument("--collect", nargs="*", type=Path, help="folders of finished studies")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--draws", type=int, default=500, help="of each bootstrap")
    parser.add_argument("--rules", nargs="*", help="populations; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.collect:
        collect(options.collect)
    print("| population | n | saved | agreement | against fixed depths | saved, thresholds kept |")
    print("|---|---|---|---|---|---|")
    for population in read_populations():
        if options.rules and population.name not in options.rules:
            continue
        for documents in SIZES:
            one = coverage(
                population,
                documents,
                samples=options.samples,
                draws=options.draws,
                seed=options.seed,
            )
            shares = " | ".join(f"{100 * share:.1f} %" for share in one[2:])
            print(f"| {one.population} | {documents} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
