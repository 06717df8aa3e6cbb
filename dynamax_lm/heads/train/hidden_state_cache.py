"""Hidden states of the backbone for training, optionally cached on disk.

The cache has one file for each window, so that a text used in several epochs runs through the
backbone once. One batch is in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynamax_lm.common.errors import first_line
from dynamax_lm.common.outputs import replacing
from dynamax_lm.heads.train.backbone import Backbone, Observation
from dynamax_lm.heads.train.windows import Batch, Window

FOLDER = "observations"


class Observer:
    """Reads batches, from the backbone or from the cache.

    Args:
        backbone: frozen.
        exit_layers: where it is read.
        folder: of the cache, or ``None`` for none. A window's file is named by its tokens, the
            exits and the backbone's contents, so that another run's are not read.
    """

    def __init__(
        self, backbone: Backbone, exit_layers: Sequence[int], folder: Path | None = None
    ) -> None:
        self._backbone, self._exits, self._folder = backbone, tuple(exit_layers), folder

    @property
    def caches(self) -> bool:
        """Whether a text runs through the backbone once."""
        return self._folder is not None

    def __call__(self, batch: Batch) -> Observation:
        """Hidden states and logits of ``batch``."""
        if self._folder is None:
            return self._backbone.observe(batch, self._exits)
        windows = batch.windows()
        known: list[Tensor | None] = [self._load(one) for one in windows]
        missing = [number for number, one in enumerate(known) if one is None]
        if missing:
            some = Batch.of([windows[number] for number in missing])
            fresh = torch.stack(self._backbone.read(some, self._exits)).cpu()  # (E + 1, m, A, D)
            for place, number in enumerate(missing):
                one = windows[number]
                shown = fresh[:, place, : len(one.ids) - one.start].contiguous()
                self._save(one, shown)
                known[number] = shown
        _, real = batch.checked()
        shape = (len(self._exits) + 1, *real.shape, self._backbone.width)
        whole = next(one for one in known if one is not None).new_zeros(shape)
        for row, kept in enumerate(known):
            assert kept is not None
            whole[:, row, : kept.shape[1]] = kept
        return self._backbone.observation(list(whole[:-1]), whole[-1], real)

    def _path(self, window: Window) -> Path:
        assert self._folder is not None
        told = f"{self._backbone.identity.digest} {self._exits} {window.start} {window.ids}"
        name = hashlib.sha256(told.encode()).hexdigest()[:24]
        return self._folder / name[:2] / f"{name}.safetensors"

    def _load(self, window: Window) -> Tensor | None:
        try:
            shown: Tensor = load_file(self._path(window))["hidden"]
            return shown
        except (FileNotFoundError, SafetensorError):
            return None

    def _save(self, window: Window, shown: Tensor) -> None:
        path = self._path(window)
        try:
            with replacing(path) as partial:
                save_file({"hidden": shown}, partial)
        except SafetensorError as error:  # it hides the operating system's error
            raise OSError(first_line(error)) from error
