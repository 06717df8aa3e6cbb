"""Prompt maps from text: hidden states of prompts, the least-squares fit, errors, and the card."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dynamax_lm import __version__
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.heads.train.backbone import Backbone, load_backbone
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.held_out import part_of
from dynamax_lm.heads.train.least_squares import Moments
from dynamax_lm.heads.train.plan import rank_of
from dynamax_lm.heads.train.sources import Source
from dynamax_lm.heads.train.windows import Batch, Window

_HELD_TOKENS = 0.2
"""Most tokens read for the card's errors, as a share of those fitted on."""


def fit_and_save(options: argparse.Namespace, source: Source, folder: Path, command: str) -> str:
    """Fit maps, evaluate them on held-out text, and save them with their card.

    Args:
        options: of the command.
        source: of documents.
        folder: of the maps.
        command: that makes them, for the card.

    Returns:
        The table of errors.

    Raises:
        SettingError: a fault that the user can correct.
    """
    backbone = load_backbone(options.model, options.model_args, options.device)
    prompts = Prompts(source, backbone, options)
    maps, tokens = fit(maps_config(options, backbone), prompts, options.tokens, options.ridge)
    errors, held = evaluate(maps, prompts, max(1, int(_HELD_TOKENS * options.tokens)))
    maps.config = replace(
        maps.config,
        data={"name": options.data, "digest": source.digest, "tokens": tokens, "held_out": held},
        training={
            "ridge": options.ridge,
            "seed": options.seed,
            "torch": torch.__version__,
            "dynamax_lm": __version__,
            "backbone": backbone.identity.digest,
        },
        errors=tuple(one._asdict() for one in errors),
    )
    table = _table(errors)
    maps.save(folder, _card(maps, options.model, command, table))
    return table


class Prompts:
    """Hidden states of prompt tokens, from a source of documents.

    Args:
        source: of documents; of one without a prompt the text itself is read.
        backbone: frozen.
        options: of the command.
    """

    def __init__(self, source: Source, backbone: Backbone, options: argparse.Namespace) -> None:
        self._source, self.backbone, self._options = source, backbone, options

    def states(
        self, layers: Sequence[int], *, held_out: bool, tokens: int
    ) -> Iterator[list[Tensor]]:
        """(n, D) after each of ``layers``, batch by batch, of about ``tokens`` tokens in all.

        Args:
            layers: layers run, ascending, each in 1..L-1.
            held_out: whether of the held-out groups, or of the others.
            tokens: after which no further batch is read.
        """
        windows = self._windows(held_out=held_out)
        doing = "evaluating on held-out prompts" if held_out else "reading prompts"
        with tqdm(total=tokens, desc=doing, unit="token") as bar:
            while tokens > 0:
                size = self._options.batch_size
                some = [one for one, _ in zip(windows, range(size), strict=False)]
                if not some:
                    return
                batch = Batch.of(some)
                _, real = batch.checked()
                read = self.backbone.read(batch, layers)[:-1]
                yield [one[real.to(one.device)] for one in read]
                count = int(real.sum())
                bar.update(min(count, tokens))
                tokens -= count

    def _windows(self, *, held_out: bool) -> Iterator[Window]:
        for document in self._source.documents(0):
            train = part_of(document, self._options.held_out) == "train"
            if train != held_out and (ids := self._ids(document)):
                yield Window(tuple(ids), 0)

    def _ids(self, document: Document) -> list[int]:
        """The tokens of a prompt but the last, which no prompt exit concerns."""
        ids = self.backbone.encode(document.prompt or document.answer)
        return ids[-self._options.window :][:-1]


class LayerError(NamedTuple):
    """How far the input of a skipped layer is from what the layer reads at full depth.

    Attributes:
        layer: layers below it.
        unmapped: of the hidden state at the exit: the squared distance, as a share of the input's
            squared size, mean over held-out tokens.
        mapped: the same of its map.
    """

    layer: int
    unmapped: float
    mapped: float


def fit(
    config: PromptMapsConfig, prompts: Prompts, tokens: int, ridge: float
) -> tuple[PromptMapBank, int]:
    """Maps by least squares, and the number of tokens that they were fitted on.

    Args:
        config: of the maps.
        prompts: read at full depth.
        tokens: number to read.
        ridge: see ``Moments.affine``.

    Raises:
        SettingError: no more tokens than a map has inputs.
    """
    maps, moments = PromptMapBank(config), Moments(config.width, len(config.groups))
    layers = _layers(config)
    for first, *inputs in prompts.states(layers, held_out=False, tokens=tokens):
        by_layer = dict(zip(layers[1:], inputs, strict=True))
        means = [torch.stack([by_layer[one] for one in group]).mean(0) for group in config.groups]
        moments.add(first, means)
    if moments.tokens <= config.width:
        raise SettingError(
            f"--data: {moments.tokens} prompt tokens are too few for maps of {config.width} "
            f"inputs; give more text, or more --tokens"
        )
    with torch.no_grad():
        for number, group in enumerate(config.groups):
            made: Any = maps.map_of(group)
            if config.translator == "affine":
                full = moments.affine(number, ridge)
                made.weight.copy_(full.weight)
                made.bias.copy_(full.bias)
            else:
                low = moments.low_rank(number, ridge, config.translator_rank)
                made.down.weight.copy_(low.down)
                made.up.weight.copy_(low.up)
                made.up.bias.copy_(low.bias)
    return maps.eval().requires_grad_(False), moments.tokens


def evaluate(maps: PromptMapBank, prompts: Prompts, tokens: int) -> tuple[list[LayerError], int]:
    """The error of each skipped layer's input on held-out prompts, and their number of tokens.

    Raises:
        SettingError: nothing is held out.
    """
    layers, seen = _layers(maps.config), 0
    sums = torch.zeros(2, len(layers) - 1, dtype=torch.float64)
    for first, *inputs in prompts.states(layers, held_out=True, tokens=tokens):
        estimates = list(maps.inputs(first.float()))[1:]
        for place, (own, mapped) in enumerate(zip(inputs, estimates, strict=True)):
            size = own.double().square().sum(1)
            for row, estimate in enumerate((first, mapped)):
                far = (estimate.double() - own.double()).square().sum(1)
                sums[row, place] += (far / size).sum().cpu()
        seen += len(first)
    if not seen:
        raise SettingError(
            "--data: no group of its documents is held out for the card; give more text, more "
            "groups (--group_by) or a larger --held_out"
        )
    means = (sums / seen).T.tolist()
    return [LayerError(layer, *pair) for layer, pair in zip(layers[1:], means, strict=True)], seen


def maps_config(options: argparse.Namespace, backbone: Backbone) -> PromptMapsConfig:
    """The configuration of new maps.

    Raises:
        SettingError: an option that does not fit the backbone.
    """
    rank = rank_of(options.map, options.rank, backbone.width)
    if not 1 <= options.prompt_exit <= backbone.n_layers - 2:
        raise SettingError(
            f"--prompt_exit={options.prompt_exit}: give a layer in 1..{backbone.n_layers - 2}; the "
            f"first layer above it needs no map"
        )
    if rank > backbone.width:
        raise SettingError(f"--rank={rank}: lies in 1..{backbone.width}")
    return PromptMapsConfig(
        **backbone.described(),
        prompt_exit=options.prompt_exit,
        group=options.layers_per_map,
        translator=options.map,
        translator_rank=rank,
    )


def _layers(config: PromptMapsConfig) -> list[int]:
    """Layers run before the exit, and before each layer that has a map."""
    return list(range(config.prompt_exit, config.n_layers))


def _table(errors: Sequence[LayerError]) -> str:
    head = ["layers below", "error of the state at the exit", "error of its map"]
    return markdown_table(
        head, [[str(one.layer), f"{one.unmapped:.4f}", f"{one.mapped:.4f}"] for one in errors]
    )


def _card(maps: PromptMapBank, model: str, command: str, table: str) -> str:
    config = maps.config
    rank = f" of rank {config.translator_rank}" if config.translator_rank else ""
    return f"""\
# Prompt maps for `{config.backbone}`

Estimates of what the layers above layer {config.prompt_exit} read of prompt tokens that exit there:
`{config.translator}` maps{rank} by least squares, each for {config.group} of the skipped layers.

    lm_eval --model {model} --model_args \
pretrained={config.backbone},prompt_exit={config.prompt_exit},prompt_maps=THIS_FOLDER

They cost {maps.flops:,} FLOPs for each prompt token, and were fitted on \
{config.data["tokens"]:,} prompt tokens by

    {command}

## Measured

Squared distance from what the layer reads at full depth, as a share of its squared size, mean over
{config.data["held_out"]:,} held-out tokens:

{table}
"""
