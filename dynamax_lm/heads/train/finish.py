"""The end of head training: calibrate, evaluate on held-out text, save heads and their card."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dynamax_lm import __version__
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.calibration import IDENTITY, Platt
from dynamax_lm.heads.train.card import (
    LOSS_PLOT,
    RELIABILITY_PLOT,
    draw_loss,
    draw_reliability,
    write_card,
)
from dynamax_lm.heads.train.evaluate import (
    HeldOut,
    calibrate,
    hold_out,
    reliability_rows,
    report_exits,
    report_policies,
)
from dynamax_lm.heads.train.hidden_state_cache import FOLDER, Observer
from dynamax_lm.heads.train.options import read_options
from dynamax_lm.heads.train.outlook import against_top_prob, too_few
from dynamax_lm.heads.train.plan import HeldStreams
from dynamax_lm.heads.train.trainer import LOG, Trainer, read_log


class Trained(NamedTuple):
    """Heads after their last step.

    Attributes:
        heads: the heads, in memory.
        backbone: the frozen model.
        observer: of its hidden states.
        trainer: of the heads.
        folder: to which everything is written.
        options: of the command.
        data_digest: of the training text.
    """

    heads: ExitHeads
    backbone: Backbone
    observer: Observer
    trainer: Trainer
    folder: Path
    options: argparse.Namespace
    data_digest: str


def finish(trained: Trained, held: HeldStreams) -> None:
    """Calibrate on one half of the held-out groups, report on the other, and save.

    Raises:
        OSError: a file cannot be written.
    """
    heads, folder, options = trained.heads, trained.folder, trained.options
    fit, report = _evaluated(trained, held)
    config, layers = heads.config, heads.config.exit_layers
    platts = calibrate(fit) if config.has_classifier else [IDENTITY for _ in layers]
    heads.config = _final_config(trained, fit, report, platts)
    draw_loss(read_log(folder / LOG), folder / LOSS_PLOT)
    if config.has_classifier:
        draw_reliability(heads.config, folder / RELIABILITY_PLOT)
    parameters = sum(parameter.numel() for parameter in heads.parameters())
    exits = report_exits(layers, report, platts)
    policies = report_policies(layers, config.n_layers, report, platts)
    card = write_card(
        heads.config,
        model=options.model,
        command=_command(options),
        parameters=parameters,
        tokens=int(report.logits.shape[1]),
        exits=exits,
        policies=policies,
    )
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    heads.save_pretrained(folder, card=card)
    trained.trainer.forget()
    if warning := too_few(
        parameters, trained.trainer.different_tokens, classifier=config.classifier
    ):
        sys.stderr.write(f"dynamax_lm: warning: {warning}\n")
    for line in against_top_prob(exits, policies, config.n_layers) if config.has_classifier else ():
        sys.stdout.write(f"{line}\n")
    arguments = ",".join(filter(None, [options.model_args, f"heads={folder}"]))
    run = f"lm_eval --model {options.model} --model_args {arguments}"
    sys.stdout.write(f"{folder}: README.md has the tables\nnext: {run} --tasks dynamax_sample\n")


def _evaluated(trained: Trained, held: HeldStreams) -> list[HeldOut]:
    """Every exit on both halves of the held-out groups."""
    doing = ("calibrating", "evaluating on held-out text")
    return [
        hold_out(
            trained.heads.eval(),
            trained.backbone,
            trained.observer,
            stream.once(),
            top_k=trained.heads.config.label_k,
            tokens=max(1, trained.options.calibration_tokens // 2),
            doing=what,
        )
        for stream, what in zip(held, doing, strict=True)
    ]


def _final_config(
    trained: Trained, fit: HeldOut, report: HeldOut, platts: Sequence[Platt]
) -> HeadsConfig:
    """The configuration with calibration, and with data and training for the record."""
    config, options, trainer = trained.heads.config, trained.options, trained.trainer
    return replace(
        config,
        data={
            "name": options.data,
            "digest": trained.data_digest,
            "tokens": trainer.tokens,
            "window": options.window,
            "held_out": options.held_out,
            "group_by": options.group_by,
            "held_out_tokens": int(fit.logits.shape[1] + report.logits.shape[1]),
        },
        training={
            "steps": trainer.step,
            "batch_size": options.batch_size,
            "seed": options.seed,
            "lr": options.lr,
            "translator_lr": options.translator_lr,
            "joint": options.joint,
            "torch": torch.__version__,
            "dynamax_lm": __version__,
            "backbone": trained.backbone.identity.digest,
        },
        calibration={
            str(layer): {"scale": platt.scale, "bias": platt.bias}
            for layer, platt in zip(config.exit_layers, platts, strict=True)
            if config.has_classifier
        },
        reliability=tuple(reliability_rows(config.exit_layers, report, platts))
        if config.has_classifier
        else (),
    )


def _command(options: argparse.Namespace) -> str:
    """The command that made these heads, without defaults."""
    defaults = read_options(["--model", options.model, "--output_path", options.output_path])
    pieces = ["python -m dynamax_lm.heads.train", f"--model {options.model}"]
    for name, value in vars(options).items():
        default: Any = getattr(defaults, name)
        if name == "model" or (value == default and name != "output_path"):
            continue
        if isinstance(value, list):
            pieces += [f"--{name} {shlex.quote(one)}" for one in value]
        elif isinstance(value, bool):
            pieces.append(f"--{name}" if value else f"--no-{name}")
        else:
            pieces.append(f"--{name} {shlex.quote(str(value))}")
    return " ".join(pieces)
