"""Finds the tokenizer of a run; without one, token ids are shown."""

from __future__ import annotations

import os
from pathlib import Path

from dynamax_lm.common.errors import SettingError, one_line
from dynamax_lm.common.token_pieces import Decode
from dynamax_lm.report.costs import checkpoint_folder
from dynamax_lm.report.runs import Run


class TokenTexts:
    """Finds each run's tokenizer once; unless one is given, only local files are used.

    Args:
        tokenizer: folder or hub id to use for every run; ``None`` for each run's own.

    Raises:
        SettingError: ``tokenizer`` cannot be loaded.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self._given = None if tokenizer is None else _load(tokenizer)
        self._known: dict[str, Decode | None] = {}

    def of(self, run: Run) -> Decode | None:
        """The run's decoder, or ``None`` where its tokenizer is not on this machine."""
        if self._given is not None:
            return self._given
        folder = checkpoint_folder(run)
        own = run.model_args.get("tokenizer") or (str(folder) if folder else run.pretrained)
        if own not in self._known:
            self._known[own] = _find(own)
        return self._known[own]


def _find(name: str) -> Decode | None:
    """A decoder from a folder or the hub's cache, or ``None``."""
    try:
        file = find_file(name, "tokenizer.json")
        if file is not None:
            return _fast(file)
        if find_file(name, "tokenizer_config.json") is not None:
            return _slow(name, local_files_only=True)
    except Exception:  # a tokenizer's file or code may fail in any way: then ids are shown
        return None
    return None


def _load(name: str) -> Decode:
    """A decoder given by name, from the hub if necessary."""
    try:
        file = find_file(name, "tokenizer.json")
        return _fast(file) if file is not None else _slow(name)
    except Exception as error:  # as above; but this one was given by name
        raise SettingError(
            f"--tokenizer {name}: cannot be loaded ({one_line(error, 120)}); give a folder with a "
            f"tokenizer.json, or a hub id"
        ) from error


def find_file(name: str, file: str) -> Path | None:
    """A file of a folder, or of a hub id in the cache."""
    path = Path(os.path.expanduser(name)) / file
    if path.is_file():
        return path
    if path.parent.is_dir() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, file)
    return Path(cached) if isinstance(cached, str) else None


def _fast(file: Path) -> Decode:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))


def _slow(name: str, **options: bool) -> Decode:
    """For tokenizers without a tokenizer.json; imports transformers and torch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    return lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
