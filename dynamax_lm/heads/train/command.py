"""The training command: from parsed options to a folder of heads.

It connects backbone, data, training loop, calibration and card. ``docs/train-heads.md`` explains
what is trained and why.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynamax_lm import __version__
from dynamax_lm.common.durations import phases_in_words
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import claimed, write_text
from dynamax_lm.common.plots import require_matplotlib
from dynamax_lm.decoders.cpu.threads import busy_cores
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.store import CONFIG
from dynamax_lm.heads.train.backbone import Backbone, load_backbone
from dynamax_lm.heads.train.expected import Text, expected_seconds, read_ahead, text_of
from dynamax_lm.heads.train.finish import Trained, finish
from dynamax_lm.heads.train.hidden_state_cache import FOLDER, Observer
from dynamax_lm.heads.train.options import read_options, source_of
from dynamax_lm.heads.train.plan import (
    HeldStreams,
    heads_config,
    objective_of,
    schedule_of,
    stream_of,
)
from dynamax_lm.heads.train.self_generated import AnswerTrial, answered
from dynamax_lm.heads.train.sources import Source
from dynamax_lm.heads.train.trainer import CHECKPOINT, LOG, Trainer, read_log

_NOT_SETTINGS = frozenset({"device", "output_path", "save_every", "log_every"})
"""Options that a resumed run may change."""


def train(argv: Sequence[str] | None = None) -> ExitHeads:
    """Train heads, calibrate them and save them with their card.

    Args:
        argv: the options; by default those of the process.

    Raises:
        SettingError: a fault that the user can correct.
        Stopped: by a signal, with a checkpoint written.
    """
    options = read_options(argv)
    require_matplotlib()
    folder = Path(options.output_path).expanduser()
    first = os.environ.get("RANK", "0") == "0"  # of a launcher's processes, which share the folder
    with claimed(folder) if first else nullcontext():
        return _train(options, folder)


def _train(options: argparse.Namespace, folder: Path) -> ExitHeads:
    """Train into a folder in which no other command writes."""
    _prepare(folder)
    source = source_of(options)
    backbone = load_backbone(options.model, options.model_args, options.device)
    if backbone.stack.device.type == "cpu" and (slower := busy_cores(backbone.width)):
        sys.stderr.write(f"dynamax_lm: warning: {slower}\n")
    accelerator = _accelerator(options, backbone)
    if options.answers == "model":
        with accelerator.main_process_first():
            source = _answered(options, source, backbone, folder, accelerator)
    held = HeldStreams.of(options, source, backbone)
    if options.answers == "data" and accelerator.is_main_process:
        text = read_ahead(options, source, backbone)
        _say_expected({}, options, backbone, text, accelerator, folder)
    torch.manual_seed(options.seed)
    heads = ExitHeads(heads_config(options, backbone)).to(backbone.stack.device)
    cache = folder / FOLDER if options.cache else None
    observer = Observer(backbone, heads.config.exit_layers, cache)
    trainer = Trainer(
        objective_of(options, heads, backbone),
        observer,
        stream_of(options, source, backbone, "train"),
        schedule_of(options),
        accelerator,
        folder,
        _settings(options, source, backbone),
    )
    trainer.train()
    if accelerator.is_main_process:
        try:
            finish(
                Trained(heads, backbone, observer, trainer, folder, options, source.digest), held
            )
        except OSError as error:
            raise SettingError(
                f"--output_path={folder}: cannot be written: {error}; the trained weights remain "
                f"in {folder / CHECKPOINT}, and the same command finishes them"
            ) from error
    accelerator.wait_for_everyone()
    return heads


def _prepare(folder: Path) -> None:
    """Check the output folder, and begin the log of a new run.

    Raises:
        SettingError: it holds finished heads, or cannot be written.
    """
    if (folder / CONFIG).exists() and not (folder / CHECKPOINT).exists():
        raise SettingError(
            f"--output_path={folder}: holds finished heads; give another folder, or remove it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / CHECKPOINT).exists():
            write_text(folder / LOG, "")
    except OSError as error:
        raise SettingError(f"--output_path={folder}: cannot be written: {error}") from error


def _answered(
    options: argparse.Namespace,
    source: Source,
    backbone: Backbone,
    folder: Path,
    accelerator: Any,
) -> Source:
    """The same prompts with the model's own answers; says how long that and the rest takes."""

    def on_trial(trial: AnswerTrial) -> None:
        text = text_of(options, trial.documents, trial.of, backbone)
        phases = {"answers": trial.seconds} if trial.seconds else {}
        _say_expected(phases, options, backbone, text, accelerator, folder)

    return answered(
        source,
        backbone,
        folder,
        prompts=options.prompts,
        max_gen_toks=options.max_gen_toks,
        until=options.until,
        window=options.window,
        batch_size=options.batch_size,
        seed=options.seed,
        on_trial=on_trial if accelerator.is_main_process else None,
    )


def _say_expected(
    phases: Mapping[str, float],
    options: argparse.Namespace,
    backbone: Backbone,
    text: Text,
    accelerator: Any,
    folder: Path,
) -> None:
    """Print about how long ``phases`` and training on ``text`` take."""
    done = read_log(folder / LOG)[-1:] if (folder / CHECKPOINT).exists() else []
    try:
        training = expected_seconds(
            options,
            backbone,
            text,
            autocast=accelerator.autocast,
            processes=accelerator.num_processes,
            done=done[0]["step"] if done else 0,
        )
    except OSError:  # no room for what is tried under --cache; the run itself has its own errors
        return
    bound = ", less once --cache holds all text" if options.cache and text.one_pass is None else ""
    line = phases_in_words({**phases, **training})
    tqdm.write(f"Expected: {line}{bound}", file=sys.stderr)


def _settings(options: argparse.Namespace, source: Source, backbone: Backbone) -> dict[str, Any]:
    """All that a resumed run must have in common with the one that was cut."""
    settings = {k: v for k, v in vars(options).items() if k not in _NOT_SETTINGS}
    return settings | {
        "contents of --data": source.digest,
        "contents of the checkpoint": backbone.identity.digest,
        "version of dynamax_lm": __version__,
    }


def _accelerator(options: argparse.Namespace, backbone: Backbone) -> Any:
    """Accelerate's processes and number formats."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    return Accelerator(
        mixed_precision=options.mixed_precision,
        cpu=backbone.stack.device.type == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
