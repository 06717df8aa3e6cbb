"""The fingerprint of a run: a digest of the checkpoint and every setting that can change a number.

Owns how the digest is made, so that a reader of the results can make it again. It does not know
what belongs to an identity; the model says that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_DIGITS = 16


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """The fingerprint of an identity, 16 hexadecimal digits.

    Args:
        identity: JSON values; others count as their text.
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def digest(*parts: object) -> str:
    """A short key for tokens or settings, so that whoever looks them up need not hold them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
