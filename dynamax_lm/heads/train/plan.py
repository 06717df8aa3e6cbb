"""From the options of head training to what is trained: configuration, losses, steps and data."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.bank import ExitHeads
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.held_out import Part, part_of
from dynamax_lm.heads.train.labels import read_label
from dynamax_lm.heads.train.objective import Objective
from dynamax_lm.heads.train.schedule import Schedule
from dynamax_lm.heads.train.sources import Source
from dynamax_lm.heads.train.windows import BatchStream, Packing
from dynamax_lm.settings.exits import read_exit_layers


class HeldStreams(NamedTuple):
    """Held-out splits; no group is in both."""

    calibrate: BatchStream
    report: BatchStream

    @classmethod
    def of(cls, options: argparse.Namespace, source: Source, backbone: Backbone) -> HeldStreams:
        """The splits of ``source``.

        Raises:
            SettingError: one of them has fewer than one window of text.
        """
        held = cls(
            stream_of(options, source, backbone, "calibrate"),
            stream_of(options, source, backbone, "report"),
        )
        for part, stream in zip(("calibrated", "reported"), held, strict=True):
            if not stream.fills_a_window():
                raise SettingError(
                    f"--data={options.data}: too little text: half of the held-out groups, "
                    f"--held_out={options.held_out:g}, has fewer than one window of "
                    f"{options.window}, and nothing could be {part}; give more text, more groups "
                    f"(--group_by) or a smaller --window"
                )
        return held


def stream_of(
    options: argparse.Namespace, source: Source, backbone: Backbone, part: Part
) -> BatchStream:
    """The text of one split, packed into windows."""

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


def heads_config(options: argparse.Namespace, backbone: Backbone) -> HeadsConfig:
    """The configuration of new heads.

    Raises:
        SettingError: an option that does not fit the backbone.
    """
    width = _width(options, backbone.width)
    top_k = read_label(options.label)
    return HeadsConfig(
        **backbone.described(),
        exit_layers=read_exit_layers(options.exit_layers).place(backbone.n_layers),
        classifier=options.head,
        classifier_width=width,
        ffn_width=(options.ffn_width or 4 * width) if options.head == "ffn" else 0,
        state_size=options.state_size,
        head_dim=options.head_dim,
        expand=options.expand,
        conv_kernel=options.conv_kernel,
        translator=options.translator,
        translator_rank=rank_of(options.translator, options.rank, backbone.width),
        label="top1" if top_k == 1 else "top_k",
        label_k=top_k,
        loss={"name": options.loss, "decay": options.decay, "thin": options.thin},
    )


def objective_of(options: argparse.Namespace, heads: ExitHeads, backbone: Backbone) -> Objective:
    """The losses of the heads."""
    return Objective(
        heads,
        backbone.stack.unembed,
        top_k=heads.config.label_k,
        loss=options.loss,
        decay=options.decay,
        thin=options.thin,
    )


def schedule_of(options: argparse.Namespace) -> Schedule:
    """The steps of translators and classifiers, and their rates."""
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


def _width(options: argparse.Namespace, full: int) -> int:
    if options.head in {"linear", "none"} or options.width == "full":
        return full
    if options.width == "narrow":
        return min(full, max(32, full // 16 // 16 * 16))
    if not options.width.isdigit() or not 1 <= int(options.width) <= full:
        raise SettingError(f"--width={options.width}: give narrow, full, or a number in 1..{full}")
    return int(options.width)


def rank_of(translator: str, rank: int | None, width: int) -> int:
    """The rank of a ``low_rank`` translator, by default an eighth of the width; 0 for others."""
    if translator != "low_rank":
        return 0
    return rank or max(1, width // 8)
