"""The study of a real checkpoint: states, heads, rules and the table.

The command line is in ``__main__``, so that its help needs none of this.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from benchmarks.criteria import states as stored
from benchmarks.criteria.asking import cached_exits
from benchmarks.criteria.choice import DRAWS, Weights, folds
from benchmarks.criteria.classifiers import fit_classifier
from benchmarks.criteria.column import Column
from benchmarks.criteria.fit import Recipe, heads_config, load_or_fit
from benchmarks.criteria.kinds import KINDS
from benchmarks.criteria.report import draw, markdown
from benchmarks.criteria.states import States
from benchmarks.criteria.study import compare, thresholds
from benchmarks.criteria.told import distinct_answers, plain, told_of
from benchmarks.criteria.translators import fit_translators, logit_metric
from benchmarks.real.labels import labels
from benchmarks.real.quality import qualities, some_tokens
from benchmarks.real.report import curve_table, draw_curve
from benchmarks.real.totals import of_all_flops
from benchmarks.real.vocabulary import ShortList
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.core.looks import FULL
from dynamax_lm.core.measures import facts_of
from dynamax_lm.engine.calibration import second_moment
from dynamax_lm.harness.command_line import load_lm
from dynamax_lm.heads import ExitHeads
from dynamax_lm.models.look_text import calibration_rows
from dynamax_lm.settings.exits import read_exit_layers

_HELD_TOKENS = 1000
"""At least so many tokens, whole windows of text or answers at the end of the first part, do not
train."""
_BY_KIND = {kind.folder: kind for kind in KINDS}


class Backbone(NamedTuple):
    """What the study needs of the loaded model.

    Attributes:
        lm: the loaded ``dynamax-…`` model.
        name: of the checkpoint.
        stack: the decoder.
        metric: of logits, for low-rank translators.
    """

    lm: Any
    name: str
    stack: Any
    metric: Tensor


class Data(NamedTuple):
    """States at the exits.

    Attributes:
        parts: of the training data, without stops.
        held: text that is not trained on.
        test: answers to the evaluation records, stops included.
    """

    parts: list[States]
    held: States
    test: States

    def train(self, count: int | None = None) -> States:
        """The first ``count`` training parts; all by default."""
        return stored.joined(self.parts[:count])


def run(options: argparse.Namespace) -> None:
    """Everything that is left to do, then the table and its pictures."""
    folder = Path(options.output_path)
    backbone = load(options)
    exits = read_exit_layers(options.exit_layers).place(int(backbone.lm.config.num_hidden_layers))
    data = read_data(Path(options.states), exits)
    results = study(backbone, data, folder, options)
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    page = f"{curve_table(results['curve'])}\n{markdown(results)}"
    write_text(folder / "table.md", page)
    draw(results, folder / "rules.png")
    draw_curve(results["curve"], folder / "curve.png")
    print(page)


def study(
    backbone: Backbone, data: Data, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """All numbers, as plain data."""
    test = data.test.of(np.flatnonzero(data.test.text > 0).tolist())
    empty = Counter(data.test.tasks) - Counter(test.tasks)
    train = data.train()
    short = ShortList.of(backbone.lm, train)
    _say(f"{len(train.token)} tokens to train on, {len(short.ids)} of the vocabulary")
    recipe = Recipe(
        steps=options.max_steps,
        documents=options.train_documents,
        loss=options.loss,
        translator_steps=options.translator_steps,
        translator_tokens=options.translator_tokens,
    )
    curve = list(_curve(backbone, data, test, short, recipe, folder, options))
    rank = options.rank
    bank = _bank(backbone, train, short, recipe, rank, folder)
    name = "low_rank" if rank else "affine"
    columns = [
        _column("none", backbone, test, None, {}, folder, options),
    ]
    classifiers: dict[str, ExitHeads] = {}
    if options.kinds:  # labels project every training token
        theirs = labels(folder / "labels.npz", short, train, bank, options.label_k)
        _say(f"labels: right {theirs.right.mean(1).round(3).tolist()}")
    for kind, seed in product((_BY_KIND[one] for one in options.kinds), range(options.seeds)):
        place = folder / "heads" / f"{kind.folder}-{seed}"
        own = replace(recipe, seed=seed)
        config = heads_config(backbone.lm, backbone.name, test.exits, kind, rank)
        if options.label_k > 1:
            config = replace(config, label="top_k", label_k=options.label_k)
        fit = partial(fit_classifier, config, bank, train, theirs, own)
        classifiers[kind.seeded(seed)] = load_or_fit(place, fit)
        _say(f"{place} is there")
    columns.append(_column(name, backbone, test, bank, classifiers, folder, options))
    weights = Weights.draw(folds(test.tasks, 0), DRAWS, 0)
    return _results(backbone, test, train, columns, weights, recipe, options) | {
        "empty": dict(empty),
        "curve": curve,
    }


def _curve(
    backbone: Backbone,
    data: Data,
    test: States,
    short: ShortList,
    recipe: Recipe,
    folder: Path,
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Agreement and divergence of the exits by tokens trained on, kind of translator and stage."""
    texts = test.texts()
    views = {
        "test answers": (texts, some_tokens(texts, options.curve_tokens)),
        "held-out text": (data.held, some_tokens(data.held, options.curve_tokens)),
    }
    trials: list[tuple[int, int, Recipe, str]] = []
    start = replace(recipe, translator_steps=0)
    for count in options.curve:
        count = min(count, len(data.parts))
        trials += [(count, 0, start, "least squares"), (count, options.rank, recipe, "distilled")]
    trials += [
        (len(data.parts), options.rank, start, "least squares"),
        (len(data.parts), 0, recipe, "distilled"),
    ]
    rows: list[dict[str, Any]] = []
    for count, rank, own, stage in [(0, 0, start, "untrained"), *dict.fromkeys(trials)]:
        path = folder / "curve" / f"{count}-{rank}-{stage.replace(' ', '_')}.json"
        if not path.is_file():
            bank, tokens = None, 0
            if count:
                some = data.train(count)
                bank, tokens = _bank(backbone, some, short, own, rank, folder), len(some.token)
            found = {
                name: [one._asdict() for one in qualities(*view, backbone.stack.unembed, bank)]
                for name, view in views.items()
            }
            kind = "none" if bank is None else bank.config.translator
            row = {"translator": kind, "rank": rank, "stage": stage, "tokens": tokens} | found
            write_text(path, json.dumps(row) + "\n")
            _say(f"{path}: {[round(one['agreement'], 3) for one in found['test answers']]}")
        rows.append(json.loads(path.read_text(encoding="utf-8")))
    yield from rows


def _bank(
    backbone: Backbone, train: States, short: ShortList, recipe: Recipe, rank: int, folder: Path
) -> ExitHeads:
    """Translators, fitted once for these tokens, rank and steps."""
    place = folder / "translators" / f"{len(train.token)}-{rank}-{recipe.translator_steps}"
    config = heads_config(backbone.lm, backbone.name, train.exits, None, rank)
    return load_or_fit(
        place,
        lambda: fit_translators(
            config, short.numbered(train), short.unembed, recipe, backbone.metric
        ),
    )


def _column(
    name: str,
    backbone: Backbone,
    test: States,
    bank: ExitHeads | None,
    classifiers: dict[str, ExitHeads],
    folder: Path,
    options: argparse.Namespace,
) -> Column:
    path, stack = folder / f"test_{name}.npz", backbone.stack
    if any(facts_of(measure).look != FULL for measure in options.measures):
        rows = calibration_rows(backbone.lm.tok_encode, backbone.lm.max_length)
        stack.cheap_projection.calibrate(second_moment(stack, rows, test.exits, bank))
    exits = cached_exits(path, test, backbone.stack.unembed, bank, options.measures, stack)
    _say(f"{path}: right {exits.right.mean(1).round(3).tolist()}")
    costs = backbone.stack.costs
    grid = thresholds(options.grid_step)
    return compare(name, test, exits, bank, classifiers, costs, "propagate", grid)


def _results(
    backbone: Backbone,
    test: States,
    train: States,
    columns: Sequence[Column],
    weights: Weights,
    recipe: Recipe,
    options: argparse.Namespace,
) -> dict[str, Any]:
    costs = backbone.stack.costs
    own = np.bincount(train.document, minlength=len(train.tasks))
    texts: Counter[str] = Counter()
    for task, count in zip(train.tasks, own.tolist(), strict=True):
        texts[task] += count
    return {
        "facts": {
            "title": backbone.name,
            "model": "dynamax-mistral",
            "layers": test.layers[-1],
            "exits": list(test.exits),
            "skipped_state": "propagate",
            "documents": len(test.tasks),
            "tasks": dict(Counter(test.tasks)),
            "tokens": len(test.token),
            "text_tokens": int(test.text.sum()),
            "distinct_answers": distinct_answers(test),
            "thresholds": len(thresholds(options.grid_step)),
            "train_documents": len(train.tasks),
            "train_tokens": len(train.token),
            "train_texts": dict(texts),
            "rank": options.rank,
            "label_k": options.label_k,
            "seeds": options.seeds,
            "recipe": asdict(recipe),
        },
        **told_of(
            columns,
            test,
            weights,
            [_BY_KIND["mamba-narrow"].seeded(seed) for seed in range(options.seeds)],
        ),
        "lines_of_all_flops": [
            plain(line)
            for one in columns
            for line in of_all_flops(one, test, costs).lines(test.layers, weights)
        ],
        "layer_flops": costs.layer(0),
        "attribution": [],
    }


def load(options: argparse.Namespace) -> Backbone:
    """The checkpoint, at full depth and without heads."""
    lm = load_lm("dynamax-mistral", f"{options.model_args},mode=full,heads=none", batch_size=1)
    lm.model.requires_grad_(False)
    stack: Any = type(lm).STACK(lm.model)
    weight = lm.model.get_output_embeddings().weight
    metric = logit_metric(lm.model.model.norm.weight, weight)
    return Backbone(lm, options.pretrained_name, stack, metric)


def read_data(folder: Path, exits: tuple[int, ...]) -> Data:
    """What ``benchmarks.real.gather`` left in a folder.

    Raises:
        SettingError: no finished training part, or no test states.
    """
    places = sorted(one for one in folder.glob("train-*") if stored.complete(one))
    tests = sorted(one for one in folder.glob("test*") if stored.complete(one))
    if not places or not tests:
        raise SettingError(
            f"--states={folder}: needs a finished training part and the test states; make them "
            f"with python -m benchmarks.real.gather"
        )
    parts = [stored.read(place).at_exits(exits).texts() for place in places]
    cut = _held_from(parts[0])
    held = parts[0].of(range(cut, len(parts[0].tasks)))
    parts[0] = parts[0].of(range(cut))
    test = stored.joined([stored.read(place).at_exits(exits) for place in tests])
    return Data(parts, held, test)


def _held_from(part: States) -> int:
    """The document from which on a part is held out: a window of text begins there, if any does."""
    first = np.searchsorted(part.document, np.arange(len(part.tasks)))
    enough = len(part.token) - first >= _HELD_TOKENS
    begins = part.position[first] == 0
    return int(np.flatnonzero(enough & begins if begins.any() else enough)[-1])


def _say(line: str) -> None:
    sys.stderr.write(f"{process_time():8.1f} s  {line}\n")
