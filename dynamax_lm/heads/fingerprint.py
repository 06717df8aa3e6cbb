"""Which backbone heads belong to: a digest of its unembedding.

Owns the digest: sha256 over the text ``V x D`` and the sign bit of every weight, row by row, eight
to a byte. Signs survive any change of number format, so a checkpoint loaded in bfloat16 has the
fingerprint of the one loaded in float32, while another checkpoint, fine-tuned or not, has not.
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
