"""``python -m benchmarks.cheap_look``: how well a cheap look at the vocabulary stands in for it.

    python -m benchmarks.cheap_look --model_args pretrained=SmolLM2-135M-Instruct \
        --text prompts.jsonl --output_path runs/cheap_look

Texts are run once at full depth; every look is then computed from the same hidden states, with the
package's measures, and billed by its ledger. ``docs/cheap-look.md`` explains what is measured. The
states are kept in ``--output_path``, so that the command can be started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from benchmarks.cheap_look_tables import tables
from benchmarks.criteria import states as stored
from benchmarks.criteria.accounts import CostTable, Grid, PerDocument
from benchmarks.criteria.asking import Fixed
from benchmarks.criteria.choice import DRAWS, Weights, cross_fit, folds, interval
from benchmarks.criteria.collect import collect
from benchmarks.criteria.column import MIDDLE
from benchmarks.criteria.fit import Recipe, heads_config, load_or_fit
from benchmarks.criteria.prompts import training_windows
from benchmarks.criteria.states import States
from benchmarks.criteria.study import thresholds
from benchmarks.criteria.translators import fit_translators
from dynamax_lm.common.outputs import write_text
from dynamax_lm.core.cheap_look import VocabularyLook
from dynamax_lm.core.exit_view import View
from dynamax_lm.core.ledger import HeadCosts
from dynamax_lm.core.looks import looking, read_look
from dynamax_lm.engine.calibration import second_moment
from dynamax_lm.engine.exit_probe import ConfidenceGrid
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.harness.command_line import load_lm
from dynamax_lm.heads import ExitHeads
from dynamax_lm.models.look_text import calibration_rows
from dynamax_lm.settings.exits import read_exit_layers

LOOKS = (
    "full",
    *("rank:32", "rank:128", "rank:16+refine:256", "rank:32+refine:256"),
    *("shortlist:256", "rank:32+shortlist:256"),
)
_WINDOW, _TOKENS_AT_ONCE = 256, 64


@dataclass
class SharedView(View):
    """A view whose products are computed once for all looks at the same states.

    Attributes:
        low_rank: by rank, (n, V) logits through the factors.
    """

    low_rank: dict[int, Tensor] = field(default_factory=dict)

    def low_rank_logits(self, rank: int) -> Tensor:
        """(n, V) through the factors."""
        if rank not in self.low_rank:
            self.low_rank[rank] = super().low_rank_logits(rank)
        return self.low_rank[rank]

    def logits_of(self, tokens: Tensor) -> Tensor:
        """(n, M) of the exact logits, which are already computed."""
        return self.logits.gather(1, tokens)


class Answers(NamedTuple):
    """Tokens and confidences of the exits.

    Attributes:
        right: (E, N) whether an exit's exact token is full depth's.
        same: by look, (E, N) whether its most likely token is the exact one.
        confidences: by set of exits and measure, (exits of the set, N).
    """

    right: NDArray[np.bool_]
    same: dict[str, NDArray[np.bool_]]
    confidences: dict[tuple[tuple[int, ...], str], NDArray[np.float32]]


@dataclass(frozen=True)
class Study:
    """One backbone's texts, exits and translators.

    Attributes:
        stack: the decoder.
        states: of the texts.
        heads: translators, or ``None``.
        sets: exits to compare, each a part of those of the states.
        measures: by set, the measures to compute, with their looks.
    """

    stack: Any
    states: States
    heads: ExitHeads | None
    sets: Mapping[tuple[int, ...], Sequence[str]]

    @cached_property
    def answers(self) -> Answers:
        """Every measure at every exit; all exits of a few tokens at a time."""
        count, exits = len(self.states.token), self.states.exits
        right = np.zeros((len(exits), count), dtype=bool)
        same = {look: np.zeros((len(exits), count), dtype=bool) for look in LOOKS[1:]}
        found = {
            (layers, name): np.zeros((len(layers), count), dtype=np.float32)
            for layers, names in self.sets.items()
            for name in names
        }
        with torch.inference_mode():
            for start in range(0, count, _TOKENS_AT_ONCE):
                part = slice(start, min(start + _TOKENS_AT_ONCE, count))
                views = list(self._views(part))
                looks = {name: VocabularyLook(read_look(name), part.stop - start) for name in same}
                for place, view in enumerate(views):
                    exact = view.logits.argmax(-1)
                    right[place, part] = exact.numpy() == self.states.token[part]
                    for name, look in looks.items():
                        same[name][place, part] = (look.logits(view).argmax(-1) == exact).numpy()
                for (layers, name), kept in found.items():
                    grid = ConfidenceGrid(name, part.stop - start, len(layers))
                    for number, layer in enumerate(layers):
                        grid.on_exit(replace_exit(views[exits.index(layer)], number))
                    kept[:, part] = grid.confidence.T.numpy()
        return Answers(right, same, found)

    def _views(self, part: slice) -> Iterator[SharedView]:
        session = HeadSession.of(self.heads, 1)
        for number, layer in enumerate(self.states.exits):
            hidden = self.states.at(number, part)
            index = torch.arange(hidden.shape[0])
            yield SharedView(
                *(self.stack.unembed, number, layer, index, hidden, session), stack=self.stack
            )

    def likeness(self) -> Iterator[dict[str, Any]]:
        """By look and exit: whether token and confidence are the same, and how well it predicts."""
        every = self.states.exits
        exact = self.answers.confidences[every, "top_prob"]
        for look in LOOKS:
            ours = self.answers.confidences[every, looking("top_prob", look)]
            for place, layer in enumerate(every):
                yield {
                    "look": look,
                    "layer": layer,
                    "same": 1.0 if look == "full" else float(self.answers.same[look][place].mean()),
                    "difference": float(np.abs(ours[place] - exact[place]).mean()),
                    "correlation": _correlation(ours[place], exact[place]),
                    "auc": area(ours[place], self.answers.right[place]),
                    "agreement": float(self.answers.right[place].mean()),
                }

    def savings(self) -> Iterator[dict[str, Any]]:
        """By set of exits and measure: its saving at agreement 0.95, and the oracle's."""
        costs = self.stack.costs
        for layers, names in self.sets.items():
            places = [self.states.exits.index(layer) for layer in layers]
            hidden = [self.states.hidden[place] for place in (*places, len(self.states.exits))]
            states: Any = replace(
                self.states,
                layers=(*layers, self.states.layers[-1]),
                hidden=hidden,  # type: ignore[arg-type]
            )
            right = self.answers.right[places]
            flops = [0 if self.heads is None else self.heads.translator_flops(x) for x in layers]
            extras = [HeadCosts(translator=one) for one in flops]
            weights = Weights.draw(folds(states.tasks, 0), DRAWS, 0)
            oracle = np.where(right.any(0), right.argmax(0), len(layers))
            free = CostTable.of(states, costs, "oracle", "propagate", extras).account(oracle, right)
            for name in names:
                cost_table = CostTable.of(states, costs, name, "propagate", extras)
                rule = Fixed(self.answers.confidences[layers, name])
                grid = np.array(thresholds())
                numbers = [cost_table.account(rule.leave(one), right) for one in grid]
                judged = cross_fit(Grid(grid, PerDocument.stack(numbers)), weights, MIDDLE)
                paid = cost_table.account(oracle, right)
                low, high = interval(judged.saved)
                yield {
                    "exits": list(layers),
                    "measure": name,
                    "saved": float(judged.saved[0]),
                    "low": low,
                    "high": high,
                    "agreement": float(judged.agreement[0]),
                    "layers": float(judged.layers[0]),
                    "oracle_free": float(free.saved.mean()),
                    "oracle_paid": float(paid.saved.mean()),
                }


def replace_exit(view: SharedView, exit: int) -> SharedView:
    """The same view as exit number ``exit`` of a smaller set; its products are shared."""
    other = replace(view, exit=exit)
    other.__dict__.update(logits=view.logits, normed=view.normed)
    return other


def area(confidence: NDArray[Any], right: NDArray[np.bool_]) -> float | None:
    """The area under the ROC curve: how often a right token has the higher confidence."""
    positives, negatives = int(right.sum()), int((~right).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(confidence)[right].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def _correlation(ours: NDArray[Any], exact: NDArray[Any]) -> float:
    """Spearman's, of the confidences' ranks."""
    return float(np.corrcoef(rankdata(ours), rankdata(exact))[0, 1])


def sets_of(exits: tuple[int, ...]) -> dict[tuple[int, ...], list[str]]:
    """Two sets of exits, all of them and two late ones, and their measures."""
    tops = [looking("top_prob", look) for look in LOOKS]
    return {exits: tops, exits[-4::2]: tops}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    folder = Path(options.output_path)
    lm = load_lm(options.model, f"{options.model_args},mode=full,heads=none,products=plain")
    lm.model.requires_grad_(False)
    stack = type(lm).STACK(lm.model)
    exits = read_exit_layers(options.exit_layers).place(stack.n_layers)
    test, train = _states(lm, stack, exits, folder, options)
    recipe = Recipe(translator_steps=0)
    config = heads_config(lm, options.title, exits, None)
    bank = load_or_fit(
        folder / "translators", lambda: fit_translators(config, train, stack.unembed, recipe)
    )
    found: dict[str, Any] = {
        "title": options.title,
        "layers": stack.n_layers,
        "width": stack.costs.width,
        "vocabulary": stack.costs.vocabulary,
        "tokens": len(test.token),
        "documents": len(test.tasks),
        "translator_tokens": len(train.token),
        "target": MIDDLE,
    }
    for name, heads in (("none", None), ("affine", bank)):
        rows = calibration_rows(lm.tok_encode, lm.max_length)
        stack.cheap_projection.calibrate(second_moment(stack, rows, exits, heads))
        study = Study(stack, test, heads, sets_of(exits))
        found[name] = {"likeness": list(study.likeness()), "savings": list(study.savings())}
        write_text(folder / "cheap_look.json", json.dumps(found, indent=1) + "\n")
    print(tables(found))


def _states(
    lm: Any, stack: Any, exits: tuple[int, ...], folder: Path, options: argparse.Namespace
) -> tuple[States, States]:
    """Hidden states of the texts, and of other ones for the translators."""
    windows = training_windows(
        Path(options.text), lm.tok_encode, options.tokens + options.train_tokens, _WINDOW
    )
    count = options.tokens // _WINDOW
    for name, some in (("test", windows[:count]), ("train", windows[count:])):
        if not stored.complete(folder / name):
            collect(
                *(stack, [], [], exits, folder / name),
                text_of=lambda number, tokens: len(tokens),
                batch_size=4,
                dtype="float32",
                windows=some,
            )
    return stored.read(folder / "test"), stored.read(folder / "train")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cheap_look",
        description="Compare cheap looks at the vocabulary with the exact projection.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=("dynamax-mistral", "dynamax-mamba"), default="dynamax-mistral")
    add("--model_args", required=True)
    add("--exit_layers", default="15+18+20+22+24+26+28+29")
    add("--text", required=True, help="JSONL with prompt and answer, as training.heads.prompts")
    add("--tokens", type=int, default=1024, help="of text on which looks are compared")
    add("--train_tokens", type=int, default=4096, help="of other text, for affine translators")
    add("--title", default="SmolLM2-135M-Instruct", help="of the backbone")
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    main()
