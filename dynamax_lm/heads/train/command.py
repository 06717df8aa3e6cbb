"""The training command: from parsed options to a folder of heads.

It connects backbone, data, training loop, calibration and card. ``docs/train-heads.md`` explains
what is trained and why.
"""

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
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.plots import require_matplotlib
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.config import HeadsConfig, architecture_of
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.store import CONFIG
from dynamax_lm.heads.train.backbone import Backbone, load_backbone
from dynamax_lm.heads.train.calibration import IDENTITY
from dynamax_lm.heads.train.card import (
    LOSS_PLOT,
    RELIABILITY_PLOT,
    draw_loss,
    draw_reliability,
    write_card,
)
from dynamax_lm.heads.train.data import Document, Layout, Part, Source, open_source, part_of
from dynamax_lm.heads.train.evaluate import (
    calibrate,
    hold_out,
    reliability_rows,
    report_exits,
    report_policies,
)
from dynamax_lm.heads.train.hidden_state_cache import FOLDER, Observer
from dynamax_lm.heads.train.labels import read_label
from dynamax_lm.heads.train.objective import Objective
from dynamax_lm.heads.train.options import read_options
from dynamax_lm.heads.train.outlook import against_top_prob, too_few
from dynamax_lm.heads.train.self_generated import answered
from dynamax_lm.heads.train.trainer import CHECKPOINT, LOG, Schedule, Trainer, read_log
from dynamax_lm.heads.train.windows import BatchStream, Packing
from dynamax_lm.settings.exits import read_exit_layers

_NOT_SETTINGS = frozenset({"device", "output_path", "save_every", "log_every"})
"""Options that a resumed run may change."""


class HeldStreams(NamedTuple):
    """Held-out splits; no group is in both."""

    calibrate: BatchStream
    report: BatchStream


def train(argv: Sequence[str] | None = None) -> ExitHeads:
    """Train heads, calibrate them and save them with their card.

    Args:
        argv: the options; by default those of the process.

    Raises:
        SettingError: a fault that the user can correct.
        Stopped: by a signal, with a checkpoint written.
    """
    from accelerate import Accelerator

    options = read_options(argv)
    require_matplotlib()
    folder = _output_folder(options.output_path)
    source = open_source(
        options.data,
        layout=Layout(
            options.text_field, options.doc_to_text, options.doc_to_target, options.group_by
        ),
        seed=options.seed,
        config=options.data_name,
        split=options.data_split,
    )
    backbone = load_backbone(options.model, options.model_args, options.device)
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        cpu=backbone.stack.device.type == "cpu",
        kwargs_handlers=_ddp(),
    )
    if options.answers == "model":
        with accelerator.main_process_first():
            source = answered(
                source,
                backbone,
                folder,
                prompts=options.prompts,
                max_gen_toks=options.max_gen_toks,
                until=options.until,
                window=options.window,
                batch_size=options.batch_size,
                seed=options.seed,
            )
    held = HeldStreams(
        _stream(options, source, backbone, "calibrate"),
        _stream(options, source, backbone, "report"),
    )
    for part, stream in zip(("calibrated", "reported"), held, strict=True):
        if not stream.fills_a_window():
            raise SettingError(
                f"--data={options.data}: too little text: half of the held-out groups, --held_out="
                f"{options.held_out:g}, has fewer than one window of {options.window}, and nothing "
                f"could be {part}; give more text, more groups (--group_by) or a smaller --window"
            )
    torch.manual_seed(options.seed)
    heads = ExitHeads(_config(options, backbone)).to(backbone.stack.device)
    objective = Objective(
        heads,
        backbone.stack.unembed,
        top_k=heads.config.label_k,
        loss=options.loss,
        decay=options.decay,
        thin=options.thin,
    )
    settings = {k: v for k, v in vars(options).items() if k not in _NOT_SETTINGS}
    settings |= {
        "contents of --data": source.digest,
        "contents of the checkpoint": backbone.identity.digest,
        "version of dynamax_lm": __version__,
    }
    cache = folder / FOLDER if options.cache else None
    observer = Observer(backbone, heads.config.exit_layers, cache)
    trainer = Trainer(
        objective,
        observer,
        _stream(options, source, backbone, "train"),
        _schedule(options),
        accelerator,
        folder,
        settings,
    )
    trainer.train()
    if accelerator.is_main_process:
        try:
            _finish(heads, backbone, observer, held, trainer, folder, options, source.digest)
        except OSError as error:
            raise SettingError(
                f"--output_path={folder}: cannot be written: {error}; the trained weights remain "
                f"in {folder / CHECKPOINT}, and the same command finishes them"
            ) from error
    accelerator.wait_for_everyone()
    return heads


def _output_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if (folder / CONFIG).exists() and not (folder / CHECKPOINT).exists():
        raise SettingError(
            f"--output_path={path}: holds finished heads; give another folder, or remove it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / CHECKPOINT).exists():
            (folder / LOG).write_text("", encoding="utf-8")
    except OSError as error:
        raise SettingError(f"--output_path={path}: cannot be written: {error}") from error
    return folder


def _config(options: argparse.Namespace, backbone: Backbone) -> HeadsConfig:
    width = _width(options, backbone.width)
    top_k = read_label(options.label)
    model = backbone.model
    return HeadsConfig(
        backbone=backbone.name,
        architecture=architecture_of(model.config.model_type),
        n_layers=backbone.n_layers,
        width=backbone.width,
        vocabulary=int(model.config.vocab_size),
        fingerprint=fingerprint(model.lm_head.weight),
        exit_layers=read_exit_layers(options.exit_layers).place(backbone.n_layers),
        classifier=options.head,
        classifier_width=width,
        ffn_width=(options.ffn_width or 4 * width) if options.head == "ffn" else 0,
        state_size=options.state_size,
        head_dim=options.head_dim,
        expand=options.expand,
        conv_kernel=options.conv_kernel,
        translator=options.translator,
        translator_rank=_rank(options, backbone.width),
        label="top1" if top_k == 1 else "top_k",
        label_k=top_k,
        loss={"name": options.loss, "decay": options.decay, "thin": options.thin},
    )


def _width(options: argparse.Namespace, full: int) -> int:
    if options.head in {"linear", "none"} or options.width == "full":
        return full
    if options.width == "narrow":
        return min(full, max(32, full // 16 // 16 * 16))
    if not options.width.isdigit() or not 1 <= int(options.width) <= full:
        raise SettingError(f"--width={options.width}: give narrow, full, or a number in 1..{full}")
    return int(options.width)


def _rank(options: argparse.Namespace, full: int) -> int:
    if options.translator != "low_rank":
        return 0
    return options.rank or max(1, full // 8)


def _schedule(options: argparse.Namespace) -> Schedule:
    first = options.translator_steps
    if options.translator == "identity":
        first = 0
    elif options.head == "none":
        first = options.max_steps
    elif first is None:
        first = options.max_steps // 2
    return Schedule(
        max_steps=options.max_steps,
        translator_steps=first,
        joint=options.joint and options.translator != "identity" and options.head != "none",
        lr=options.lr,
        translator_lr=options.translator_lr,
        seed=options.seed,
        save_every=options.save_every,
        log_every=options.log_every,
    )


def _stream(
    options: argparse.Namespace, source: Source, backbone: Backbone, part: Part
) -> BatchStream:
    def keep(document: Document) -> bool:
        return part_of(document, options.held_out) == part

    packing = Packing(options.window, backbone.tokenizer.eos_token_id, options.seed)
    return BatchStream(
        source,
        keep,
        backbone.encode,
        packing,
        batch_size=options.batch_size,
        name=options.data,
    )


def _finish(
    heads: ExitHeads,
    backbone: Backbone,
    observer: Observer,
    streams: HeldStreams,
    trainer: Trainer,
    folder: Path,
    options: argparse.Namespace,
    data_digest: str,
) -> None:
    """Calibrate on one half of the held-out groups, report on the other, and save."""
    config = heads.config
    layers = config.exit_layers
    fit, report = (
        hold_out(
            heads.eval(),
            backbone,
            observer,
            stream.once(),
            top_k=config.label_k,
            tokens=max(1, options.calibration_tokens // 2),
            doing=doing,
        )
        for stream, doing in zip(
            streams, ("calibrating", "evaluating on held-out text"), strict=True
        )
    )
    platts = calibrate(fit) if config.has_classifier else [IDENTITY for _ in layers]
    heads.config = replace(
        config,
        data={
            "name": options.data,
            "digest": data_digest,
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
            "backbone": backbone.identity.digest,
        },
        calibration={
            str(layer): {"scale": platt.scale, "bias": platt.bias}
            for layer, platt in zip(layers, platts, strict=True)
            if config.has_classifier
        },
        reliability=tuple(reliability_rows(layers, report, platts))
        if config.has_classifier
        else (),
    )
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
    trainer.forget()
    if warning := too_few(parameters, trainer.different_tokens):
        sys.stderr.write(f"dynamax_lm: warning: {warning}\n")
    for line in against_top_prob(exits, policies, config.n_layers) if config.has_classifier else ():
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{folder}: README.md has the tables; next: heads={folder} in --model_args\n")


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


def _ddp() -> list[Any]:
    from accelerate.utils import DistributedDataParallelKwargs

    return [DistributedDataParallelKwargs(find_unused_parameters=True)]
