"""Data-parallel processes on CPUs, which lm-eval's ``hf`` model does not support.

This module joins the process group and exchanges data. On GPUs the ``hf`` model does so itself,
through accelerate.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed
from lm_eval.models.huggingface import HFLM

_Found = TypeVar("_Found")


class Processes(HFLM):  # type: ignore[misc]
    """The ``hf`` model, as one of several processes that share a run."""

    def join_processes(self) -> None:
        """Join the processes of a launcher, if the ``hf`` model has not."""
        group = torch.distributed
        launched = group.is_available() and group.is_initialized()
        if launched and self.world_size == 1:
            self._rank, self._world_size = group.get_rank(), group.get_world_size()

    def from_first(self, found: _Found) -> _Found:
        """The first process's value, in every process."""
        group = torch.distributed
        if self.world_size <= 1 or not (group.is_available() and group.is_initialized()):
            return found
        shared = [found]
        group.broadcast_object_list(shared, src=0)
        return shared[0]

    @property
    def _gathers_itself(self) -> bool:
        return self.world_size <= 1 or hasattr(self, "accelerator")

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Every rank's ``tensor`` (n,) in rank order, (ranks * n,); of a scalar (ranks,)."""
        if self._gathers_itself:
            gathered: torch.Tensor = super().all_gather(tensor)
            return gathered
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, tensor)
        return torch.cat([part.reshape(-1) if part.ndim == 0 else part for part in parts])

    def barrier(self) -> None:
        """A barrier over all ranks."""
        if self._gathers_itself:
            super().barrier()
        else:
            torch.distributed.barrier()
