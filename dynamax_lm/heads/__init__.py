"""Trained exit heads: classifiers, which decide exits, and translators before the unembedding."""

from dynamax_lm.heads.bank import ExitHeads, HeadsState, check_shape
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.store import find_folder, read_config, write_config

__all__ = [
    "ExitHeads",
    "HeadsConfig",
    "HeadsState",
    "check_shape",
    "fingerprint",
    "find_folder",
    "read_config",
    "write_config",
]
