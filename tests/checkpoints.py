"""Random checkpoints on disk, with a byte-level tokenizer, as lm-eval loads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.builders import random_model

BYTES = 259
"""Every byte, and <s>, </s>, <unk>."""


def byte_tokenizer(*, bos: bool = True, context: int = 96) -> PreTrainedTokenizerFast:
    """One token a byte; ``bos`` puts <s> in front, as Mistral's tokenizer does."""
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = special | {letter: number for number, letter in enumerate(letters, 3)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=context,
    )


def save_checkpoint(folder: Path, kind: str, *, bos: bool = True, **options: Any) -> Path:
    """A random checkpoint of ``kind`` in ``folder``, whose context is 96 tokens."""
    context = {} if kind == "mamba2" else {"max_position_embeddings": 96}
    defaults = {"vocab_size": BYTES, "bos_token_id": 1, "eos_token_id": 2, "layers": 4}
    settings = defaults | context | options
    model = random_model(kind, **settings)
    model.save_pretrained(folder)
    byte_tokenizer(bos=bos).save_pretrained(folder)
    return folder


def save_with(
    factory: pytest.TempPathFactory, kinds: Iterable[str], save: Callable[[Any, Path], Path]
) -> dict[str, tuple[Path, Path]]:
    """By kind, a random checkpoint and a folder that ``save`` writes from the model."""
    found = {}
    for kind in kinds:
        root = factory.mktemp(kind)
        checkpoint = save_checkpoint(root / "model", kind)
        found[kind] = (checkpoint, save(AutoModelForCausalLM.from_pretrained(checkpoint), root))
    return found


def with_own_copy(place: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """The checkpoint, and a copy in ``folder`` of what was saved with it: a test may spoil it."""
    checkpoint, saved = place
    return checkpoint, Path(shutil.copytree(saved, folder / saved.name))


def save_checkpoints(factory: pytest.TempPathFactory, kinds: Iterable[str]) -> dict[str, Path]:
    """A random checkpoint of each kind, in a folder of its own."""
    return {kind: save_checkpoint(factory.mktemp(kind), kind) for kind in kinds}
