"""The fingerprint of the backbone of trained heads: a digest of its unembedding.

It is sha256 over the text ``V x D`` and the sign bit of every weight, row by row, eight
to a byte. Signs do not depend on the number format, so a checkpoint has the same fingerprint in
bfloat16 and float32, while another checkpoint, fine-tuned or not, has another.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_ROWS_AT_ONCE = 4096


def fingerprint(unembedding: Tensor) -> str:
    """The digest of a vocabulary projection's weight.

    Args:
        unembedding: (V, D), any dtype and device.
    """
    digest = hashlib.sha256("x".join(map(str, unembedding.shape)).encode())
    with torch.no_grad():
        for rows in unembedding.detach().split(_ROWS_AT_ONCE):
            digest.update(np.packbits(torch.signbit(rows).cpu().numpy()).tobytes())
    return digest.hexdigest()
