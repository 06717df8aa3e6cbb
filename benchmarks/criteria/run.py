"""The study of one backbone: states, heads, rules and the table.

The command line is in ``__main__``, so that its help needs none of this.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.utils import simple_parse_args_string
from torch import Tensor

from benchmarks.criteria import states as stored
from benchmarks.criteria.accounts import mean_layer
from benchmarks.criteria.asking import UNTRAINED, Unembed, cached_exits
from benchmarks.criteria.attribution import Trial, engine_agreement
from benchmarks.criteria.choice import DRAWS, Weights, cross_fit, folds
from benchmarks.criteria.classifiers import fit_classifier
from benchmarks.criteria.collect import collect_prompts, outside_layers, stack_of
from benchmarks.criteria.column import MIDDLE, Column
from benchmarks.criteria.fit import Recipe, heads_config, load_or_fit
from benchmarks.criteria.kinds import KINDS
from benchmarks.criteria.prompts import (
    test_prompts,
    training_prompts,
    training_windows,
)
from benchmarks.criteria.report import draw, markdown
from benchmarks.criteria.states import States
from benchmarks.criteria.study import compare, thresholds
from benchmarks.criteria.told import distinct_answers, told_of
from benchmarks.criteria.translators import fit_translators
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.intervals import SHARE, mean_interval
from dynamax_lm.common.outputs import write_text
from dynamax_lm.decoders.checkpoint import ATTENTION, MAMBA2
from dynamax_lm.harness.command_line import load_lm
from dynamax_lm.heads import ExitHeads
from dynamax_lm.settings import find_measure, find_skipped_state, read_confidence
from dynamax_lm.settings.exits import read_exit_layers

_SKIPPED_STATES = {"attention": ("propagate", "copy_kv"), "mamba2": ("propagate", "freeze")}


def run(options: argparse.Namespace) -> None:
    """Everything that is left to do, then the table and its pictures."""
    architecture: Any = MAMBA2.name if options.model == MAMBA2.model else ATTENTION.name
    named = {
        "measures": [one for one in map(read_confidence, options.measures) if one],
        "skipped_state": find_skipped_state(options.skipped_state, architecture),
    }
    options = argparse.Namespace(**vars(options) | named)
    torch.manual_seed(options.seed)
    folder = Path(options.output_path)
    lm = _load(options.model, options.model_args, options)
    exits = read_exit_layers(options.exit_layers).place(lm.stack.n_layers)
    test, train = _states(lm, exits, folder, options)
    asked = Counter(test.tasks)
    test = test.of(np.flatnonzero(test.text > 0).tolist())
    empty = dict(asked - Counter(test.tasks))
    results = study(lm, test, train, folder, options) | {"empty": empty}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "table.md", markdown(results))
    draw(results, folder / "criteria.png")
    print(markdown(results))


def study(
    lm: Any, test: States, train: States, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """All numbers of one backbone, as plain data.

    Args:
        lm: the loaded model.
        test: every document has text.
        train: answers that heads are trained on.
        folder: where what is finished is kept.
        options: the command line's.
    """
    stack, outside = stack_of(lm), outside_layers(lm)
    costs = stack.costs
    recipe = Recipe(
        steps=options.max_steps,
        documents=options.train_documents,
        translator_steps=options.translator_steps,
        translator_tokens=options.translator_tokens,
        seed=options.seed,
    )
    quick = _unembed(stack, lm.model.dtype, options.fit_precision)
    exact = _unembed(stack, lm.model.dtype, "no")
    name = options.pretrained_name or lm._shown_name
    bank = load_or_fit(
        folder / "heads" / "translators",
        lambda: fit_translators(heads_config(lm, name, test.exits, None), train, quick, recipe),
    )
    weights = Weights.draw(folds(test.tasks, options.seed), DRAWS, options.seed)
    grid = thresholds(options.grid_step)
    measures = (*UNTRAINED, *(find_measure(one).name for one in options.measures))
    columns: list[Column] = []
    for column, translators in (("none", None), ("affine", bank)):
        ours = cached_exits(folder / f"test_{column}.npz", test, exact, translators, measures)
        names = options.plain_kinds if translators is None else options.kinds
        classifiers: dict[str, ExitHeads] = {}
        if names:  # projecting the training tokens is expensive
            theirs = cached_exits(folder / f"train_{column}.npz", train, quick, translators, ())
        for kind, seed in product(KINDS, range(options.seed, options.seed + options.head_seeds)):
            if kind.folder in names:
                config = heads_config(lm, name, test.exits, kind)
                own = replace(recipe, seed=seed)
                fit = partial(fit_classifier, config, translators, train, theirs, own)
                again = seed != options.seed
                place = f"{kind.folder}-{seed}" if again else kind.folder
                called = kind.seeded(seed) if again else kind.name
                classifiers[called] = load_or_fit(folder / "heads" / column / place, fit)
        columns.append(
            compare(
                column, test, ours, translators, classifiers, costs, options.skipped_state, grid
            )
        )
    attribution = _attribution(stack, lm, test, columns, weights, options)
    return {
        "facts": {
            "title": options.title or f"{options.model}, {name}",
            "model": options.model,
            "layers": test.layers[-1],
            "exits": list(test.exits),
            "skipped_state": options.skipped_state,
            "documents": len(test.tasks),
            "tasks": dict(Counter(test.tasks)),
            "tokens": len(test.token),
            "text_tokens": int(test.text.sum()),
            "distinct_answers": distinct_answers(test),
            "thresholds": len(grid),
            "train_documents": len(train.tasks),
            "train_tokens": len(train.token),
            "seed": options.seed,
            "head_seeds": options.head_seeds,
            "recipe": asdict(recipe),
            **({} if outside is None else {"outside_layers": outside}),
        },
        **told_of(
            columns,
            test,
            weights,
            [
                *("mamba, narrow", "mamba_depth, narrow"),
                *(f"mamba, narrow, seed {options.seed + one}" for one in range(options.head_seeds)),
            ],
        ),
        "layer_flops": round(mean_layer(costs, 0)),
        "attribution": attribution,
    }


def _attribution(
    stack: Any,
    lm: Any,
    test: States,
    columns: Sequence[Column],
    weights: Weights,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Engine runs of a few rules at the grid's threshold next to that of the middle target."""
    documents = _some_documents(test, options.engine_documents, options.seed)
    if not documents:
        return []
    plain_weights = Weights(weights.fold, weights.counts[:1])
    states = _SKIPPED_STATES[type(lm).ARCHITECTURE.name]
    trials: list[Trial] = []
    labels: list[tuple[str, np.ndarray[Any, Any]]] = []
    for column in columns:
        for rule in column.contenders:
            if rule.name not in options.attribute:
                continue
            judged = cross_fit(rule.grid, plain_weights, MIDDLE)
            places = np.searchsorted(rule.grid.thresholds, judged.thresholds)
            exact = rule.grid.numbers.agreement[places[weights.fold[documents]], documents]
            chosen = tuple(rule.grid.thresholds[places].tolist())
            for skipped_state in filter(stack.skipped_states.__contains__, states):
                trials.append(
                    Trial(rule.name, rule.confidence, test.exits, rule.heads, chosen, skipped_state)
                )
                labels.append((column.translators, exact))
    found = engine_agreement(stack, test, trials, weights.fold, documents, options.batch_size)
    return [
        {
            "translators": translators,
            "rule": trial.name,
            "skipped_state": trial.skipped_state,
            "documents": len(documents),
            "thresholds": list(trial.thresholds),
            "exact": float(exact.mean()),
            "engine": float(engine.mean()),
            "state_interval": mean_interval(exact - engine, SHARE.of_gaps),
        }
        for trial, (translators, exact), engine in zip(trials, labels, found, strict=True)
    ]


def _some_documents(states: States, limit: int, seed: int) -> list[int]:
    order = np.random.default_rng(seed).permutation(len(states.tasks))[:limit]
    return sorted(order.tolist())


def _unembed(stack: Any, dtype: torch.dtype, precision: str) -> Unembed:
    def project(hidden: Tensor) -> Tensor:
        mixed = (
            torch.autocast(stack.device.type, dtype=torch.bfloat16)
            if precision == "bf16"
            else nullcontext()
        )
        with mixed:
            logits: Tensor = stack.unembed(hidden.to(dtype))
        return logits.float()

    return project


def _states(
    lm: Any, exits: tuple[int, ...], folder: Path, options: argparse.Namespace
) -> tuple[States, States]:
    if not stored.complete(folder / "test"):
        prompts = test_prompts(
            Path(options.eval_data), folder / "tasks", options.limit, options.num_fewshot
        )
        collect_prompts(
            lm, prompts, exits, folder / "test", dtype="float32", batch_size=options.batch_size
        )
    if not stored.complete(folder / "train"):
        limits = (options.train_limit, options.train_longest)
        prompts = training_prompts(Path(options.train_data), *limits)
        quick = lm
        if options.fit_precision == "bf16":
            quick = _load(options.model, f"{options.model_args},dtype=bfloat16", options)
        windows = training_windows(
            Path(options.train_data), quick.tok_encode, options.train_text_tokens
        )
        collect_prompts(
            *(quick, prompts, exits, folder / "train"),
            dtype="float16",
            batch_size=options.batch_size,
            windows=windows,
        )
    test, train = stored.read(folder / "test"), stored.read(folder / "train")
    for one in (test, train):
        if one.exits != exits:
            raise SettingError(
                f"--exit_layers={list(exits)}: {folder} holds states of exits {list(one.exits)}; "
                f"give those, or another --output_path"
            )
    return test, train


_INSTEAD = {
    "confidence": "all measures are compared; give one of your own by --measures FILE.py:CLASS",
    "skipped_state": "give --skipped_state",
    "mode": "the answers are full depth's",
    **dict.fromkeys(
        ("exit_rule", "exit_rule_args", "threshold"),
        "measures are compared at every threshold, and exit rules are not",
    ),
}
"""Model arguments that this benchmark sets by itself, and what to do instead."""


def _load(model: str, model_args: str, options: argparse.Namespace) -> Any:
    given = simple_parse_args_string(model_args)
    for name, why in _INSTEAD.items():
        if name in given:
            raise SettingError(f"--model_args {name}={given[name]}: {why}; leave it out")
    lm = load_lm(
        model,
        f"{model_args},mode=full",
        batch_size=options.batch_size,
        device=options.device,
    )
    lm.model.requires_grad_(False)
    return lm
