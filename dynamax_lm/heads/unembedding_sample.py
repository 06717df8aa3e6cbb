"""A sample of the unembedding, by which a quantised or dequantised copy of it is recognised.

A checkpoint that was quantised and read back differs from the original in the signs of weights that
were rounded to zero, and so in its fingerprint. Every weight however lies within half a
quantisation step of the other's. The sample has 2,048 weights at fixed places, each with half its
step; a copy is one whose weights there *all* lie within it. Another checkpoint, or a fine-tuned one
whose unembedding moved by more than a small share of a step, has weights outside.

The step is that of rounding to so many bits, symmetric, by the largest magnitude in each block of
32 weights of a row: llama.cpp's ``Q8_0``, whose steps the dequantised weights still show. It also
bounds ``Q4_0``'s positive half and ``Q4_1``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamax_lm.common.errors import SettingError

COUNT: Final = 2048
"""Weights of a sample."""
BLOCK: Final = 32
"""Weights of a row that share a step."""
BITS: Final = (4, 8)

_STRIDE = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: multiples spread evenly
_WORD = 1 << 64
_OF_SCALES = 2.0**-10
"""Relative: steps, and the weights before quantisation, may have been rounded to float16."""
_FIELDS = ("bits", "values", "half_steps")


class Difference(NamedTuple):
    """Of a checkpoint's sampled weights from those of the sample.

    Attributes:
        within: whether each is at most half a step, and what number formats round.
        relative: root mean square, as a share of that of the sample.
    """

    within: bool
    relative: float


@dataclass(frozen=True)
class UnembeddingSample:
    """The sampled weights of the checkpoint that heads were trained on.

    Attributes:
        bits: of the rounding that is allowed for.
        values: (COUNT,) the weights.
        half_steps: (COUNT,) half the step of each one's block.
    """

    bits: int
    values: NDArray[np.float32]
    half_steps: NDArray[np.float32]

    @classmethod
    def of(cls, unembedding: Tensor, bits: int) -> UnembeddingSample:
        """Sample a vocabulary projection's weight.

        Args:
            unembedding: (V, D), any floating dtype and device.
            bits: 8 or 4.
        """
        rows, columns = _places(unembedding)
        weights = unembedding.detach()[rows].float().cpu()  # (COUNT, D)
        inside = torch.arange(weights.shape[1]) // BLOCK == (columns // BLOCK)[:, None]
        largest = torch.where(inside, weights.abs(), 0.0).amax(1)
        values = weights[torch.arange(COUNT), columns]
        half = largest / (2 ** (bits - 1) - 1) / 2
        return cls(bits, values.numpy(), half.numpy())

    def difference(self, unembedding: Tensor) -> Difference:
        """Compare another checkpoint's weights at the same places.

        Args:
            unembedding: (V, D) of the same shape.
        """
        rows, columns = _places(unembedding)
        device = unembedding.device
        theirs = unembedding.detach()[rows.to(device), columns.to(device)].double().cpu().numpy()
        values = self.values.astype(np.float64)
        gap = np.abs(theirs - values)
        formats = _OF_SCALES + torch.finfo(unembedding.dtype).eps / 2
        sizes = np.maximum(np.abs(values), np.abs(theirs))
        within = bool((gap <= self.half_steps + formats * sizes).all())
        scale = math.sqrt(float(np.square(values).mean()))
        size = math.sqrt(float(np.square(gap).mean()))
        return Difference(within, size / scale if scale else math.inf)

    def to_json(self) -> dict[str, Any]:
        """JSON values; numbers are little-endian float32 in base64."""
        return {
            "bits": self.bits,
            "values": _packed(self.values),
            "half_steps": _packed(self.half_steps),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> UnembeddingSample:
        """Read what :meth:`to_json` wrote.

        Raises:
            SettingError: anything else.
        """
        if sorted(data) != sorted(_FIELDS):
            raise SettingError(f"it has {', '.join(_FIELDS)}")
        bits = data["bits"]
        if isinstance(bits, bool) or bits not in BITS:
            raise SettingError("bits are 4 or 8")
        values, half_steps = (_unpacked(data[name], name) for name in _FIELDS[1:])
        if (half_steps < 0).any():
            raise SettingError("half_steps are at least 0")
        return cls(bits, values, half_steps)


def _places(unembedding: Tensor) -> tuple[Tensor, Tensor]:
    """(COUNT,) rows and columns, determined by the shape alone."""
    count, width = unembedding.numel(), unembedding.shape[1]
    flat = torch.tensor([(n * _STRIDE % _WORD) * count // _WORD for n in range(COUNT)])
    return flat // width, flat % width


def _packed(numbers: NDArray[np.float32]) -> str:
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def _unpacked(text: Any, name: str) -> NDArray[np.float32]:
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise SettingError(f"{name} are no base64") from error
    if len(content) != 4 * COUNT:
        raise SettingError(f"{name} are {COUNT} numbers")
    numbers = np.frombuffer(content, dtype="<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise SettingError(f"{name} are finite")
    return numbers
