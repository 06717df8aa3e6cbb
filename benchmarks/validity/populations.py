"""The populations of the comparisons: real documents, as numbers alone.

    python -m benchmarks.validity.populations --criteria runs/criteria/mistral

The data file has one line a document, with how many answer tokens agree with full depth under each
fixed depth and each rule, and what a rule spent. The folder is one that ``benchmarks.criteria``
wrote for the embedded Mistral: 1,286 documents (900 TriviaQA, 339 TruthfulQA, 47 CoQA) that no
sample of the package holds. No text is kept.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamax_lm.common.outputs import replacing

Floats = NDArray[np.float64]

DATA = Path(__file__).parent / "data" / "tiny_mistral.csv"
RULES = (("none", 0.5), ("none", 0.7), ("affine", 0.3), ("affine", 0.5))
"""Translators, and the threshold of ``top_prob``. Affine ones at 0.7 left no token that differs."""
MIXTURES = (
    ("none", 0.5, 8),
    ("none", 0.7, 8),
    ("none", 0.7, 14),
    ("affine", 0.3, 8),
    ("affine", 0.5, 8),
)
"""Rules, each with the lower depth of its mixture; the higher one is full depth."""
LAYERS = 16
EXITS = (8, 10, 12, 14)


@dataclass(frozen=True)
class Population:
    """Documents under one rule and the static mixture of the same mean agreement.

    Attributes:
        name: of the rule and its mixture.
        rule: (M,) agreement of each document under the rule.
        shallow: (M,) at the lower fixed depth; the higher one is full depth, which agrees always.
        depth: the lower one.
        further: every depth in between that was measured, ascending, and (M,) agreement there;
            they agree less than mixtures of the outer two, so that these stay the best.
        share: odds of full depth at which the mixture agrees exactly as well as the rule.
        spent: (M,) the rule's FLOPs over answer tokens.
        full: (M,) full depth's FLOPs over the same tokens.
    """

    name: str
    rule: Floats
    shallow: Floats
    depth: int
    further: tuple[tuple[int, Floats], ...]
    share: float
    spent: Floats
    full: Floats

    def gaps(self, worse: float = 0.0) -> Floats:
        """(M,) the rule less a mixture that agrees ``worse`` less; their mean is ``worse``.

        Raises:
            ValueError: no mixture of the two depths agrees so little.
        """
        share = self.share - worse / float(1 - self.shallow.mean())
        if share < 0:
            raise ValueError(f"{self.name}: no mixture is worse by {worse}")
        return self.rule - (1 - share) * self.shallow - share


def populations(file: Path = DATA) -> list[Population]:
    """Every rule with its mixture."""
    columns = read(file)
    tokens, found = columns["tokens"], []
    for translators, threshold, depth in MIXTURES:
        rule = columns[f"{translators}_top_prob_{threshold}"] / tokens
        shallow = columns[f"{translators}_layer_{depth}"] / tokens
        low = float(shallow.mean())
        found.append(
            Population(
                name=f"{translators}, top_prob >= {threshold}, layers {depth} and {LAYERS}",
                rule=rule,
                shallow=shallow,
                depth=depth,
                further=tuple(
                    (other, columns[f"{translators}_layer_{other}"] / tokens)
                    for other in EXITS
                    if other > depth
                ),
                share=(float(rule.mean()) - low) / (1 - low),
                spent=columns[f"{translators}_top_prob_{threshold}_flops"],
                full=columns["full_depth_flops"],
            )
        )
    return found


def read(file: Path = DATA) -> dict[str, Floats]:
    """Every column of the data file."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def _collect(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The columns, from the folder of a finished study of the embedded Mistral."""
    from benchmarks.criteria import states as stored
    from benchmarks.criteria.accounts import CostTable
    from benchmarks.criteria.asking import Fixed
    from dynamax_lm.core.ledger import HeadCosts
    from dynamax_lm.decoders.costs.attention import AttentionCosts
    from dynamax_lm.heads import ExitHeads

    states = stored.read(folder / "test")
    count = len(states.tasks)

    def by_document(values: NDArray[Any]) -> NDArray[np.int64]:
        return np.bincount(states.document, values.astype(np.float64), count).astype(np.int64)

    bank = ExitHeads.from_pretrained(folder / "heads" / "translators")
    columns = {"tokens": by_document(np.ones(len(states.token)))}
    costs = AttentionCosts.from_config(_config())
    for translators in ("none", "affine"):
        with np.load(folder / f"test_{translators}.npz") as kept:
            right, sure = kept["right"], kept["by_top_prob"]
        extras = [
            HeadCosts(0, bank.translator_flops(layer) if translators == "affine" else 0)
            for layer in states.exits
        ]
        cost_table = CostTable.of(states, costs, "top_prob", "propagate", extras)
        columns["full_depth_flops"] = by_document(cost_table.full)
        for number, layer in enumerate(states.exits):
            columns[f"{translators}_layer_{layer}"] = by_document(right[number])
        agrees = np.concatenate([right, np.ones((1, right.shape[1]), dtype=bool)])
        for kind, threshold in RULES:
            if kind == translators:
                leave = Fixed(sure).leave(threshold)
                place = np.arange(len(leave))
                name = f"{translators}_top_prob_{threshold}"
                columns[name] = by_document(agrees[leave, place])
                columns[f"{name}_flops"] = by_document(cost_table.spent[leave, place])
    return columns


def _config() -> Any:
    from transformers import AutoConfig

    from dynamax_lm.decoders.checkpoint import ATTENTION, resolve_name

    return AutoConfig.from_pretrained(resolve_name("tiny", ATTENTION))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validity.populations")
    parser.add_argument("--criteria", type=Path, required=True, help="a finished study's folder")
    options = parser.parse_args(argv)
    columns = _collect(options.criteria)
    with replacing(DATA) as partial, partial.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(np.stack(list(columns.values()), axis=1).tolist())
    for one in populations():
        print(f"{one.name}: agreement {one.rule.mean():.4f}")


if __name__ == "__main__":
    main()
