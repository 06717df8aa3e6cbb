"""CUDA graphs on a CPU: operations are noted while a step is recorded, and run again at a replay.

As on a GPU, nothing is computed while recording, a replay runs no Python of the step, and it reads
and writes the tensors of the recording, wherever the state's are by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dynamax_lm.decoders import recorded_steps

READS_THE_DEVICE = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "lift_fresh")
"""Operations that a GPU refuses while it records: the host reads a tensor, or writes one."""


class CpuGraph:
    """In place of ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def pool(self) -> None:
        """Nothing is shared."""

    def replay(self) -> None:
        """Run all operations on the recorded tensors."""
        for function, given, named, outputs in self.calls:
            found = _tensors(function(*given, **named))
            for output, new in zip(outputs, found, strict=False):
                output.copy_(new)


class _Noting(TorchDispatchMode):
    def __init__(self, graph: CpuGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        name = function._schema.name
        if any(one in name for one in READS_THE_DEVICE):
            raise RuntimeError(f"{name} while a step is recorded")
        written = [
            named[one.name] if one.kwarg_only else args[place]
            for place, one in enumerate(function._schema.arguments)
            if one.alias_info is not None and one.alias_info.is_write
        ]
        if written:
            self._graph.calls.append((function, args, named, []))
            return written[0]
        found = function(*args, **named)
        memory = {one.untyped_storage().data_ptr() for one in _tensors([args, named])}
        outputs = _tensors(found)
        if not any(one.untyped_storage().data_ptr() in memory for one in outputs):  # else a view
            self._graph.calls.append((function, args, named, outputs))
        return found


_devices: list[torch.device] = []


@contextmanager
def _device(device: torch.device) -> Iterator[None]:
    """In place of ``torch.cuda.device``."""
    _devices.append(device)
    try:
        yield
    finally:
        _devices.pop()


@contextmanager
def _graph(graph: CpuGraph, *, pool: None, stream: torch.device) -> Iterator[None]:
    """In place of ``recording``, which records what runs on the stream's device alone."""
    assert _devices == [stream], "the current device is not the decoder's"
    with _Noting(graph):
        yield


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return [one for part in found for one in _tensors(part)]
    return []


def record_on_a_cpu(patch: Any) -> None:
    """Replace CUDA graphs, by a ``pytest.MonkeyPatch``."""
    patch.setattr(recorded_steps, "recording", _graph)
    patch.setattr(torch.cuda, "CUDAGraph", CpuGraph)
    patch.setattr(torch.cuda, "device", _device)
    patch.setattr(torch.cuda, "Stream", torch.device)
