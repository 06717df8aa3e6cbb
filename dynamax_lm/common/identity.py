"""The fingerprint of a run: a digest of the checkpoint and every setting that can change a number.

The model determines what belongs to an identity; a reader of the results can recompute the digest.
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
    """A short key for tokens or settings."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
