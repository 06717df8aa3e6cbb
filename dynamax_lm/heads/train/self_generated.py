"""Answers of the frozen model itself as training text, as at run time.

They are greedy full-depth answers, stored in a file. At run time exits are checked along the
model's own answers, which have higher confidence and less variety than those of a data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.data import Document, LocalSource, Source

FILE = "answers.jsonl"

_NOT_GREEDY = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
        *("max_length", "use_cache", "_from_model_config", "transformers_version"),
    }
)
"""Options of a checkpoint's generation configuration that change no token of a greedy search."""


def answered(
    source: Source,
    backbone: Backbone,
    folder: Path,
    *,
    prompts: int,
    max_gen_toks: int,
    until: Sequence[str],
    window: int,
    batch_size: int,
    seed: int,
) -> LocalSource:
    """The first prompts of ``source`` with the model's answers; an interrupted run resumes.

    Args:
        source: documents with prompts.
        backbone: answers greedily at full depth.
        folder: of the answers, in :data:`FILE`.
        prompts: largest number of prompts.
        max_gen_toks: largest number of tokens of an answer.
        until: an answer ends with the token that completes one of these; if empty, one of its
            document's own.
        window: largest number of tokens of a prompt with its answer; longer prompts are truncated
            from the left.
        batch_size: prompts answered together.
        seed: of the order of the answers.

    Raises:
        SettingError: no document has a prompt, or the file cannot be written.
    """
    prompted = [one for one in islice(source.documents(0), prompts) if one.prompt]
    if not prompted:
        raise SettingError(
            "--answers=model: no record has a prompt to answer; give records with fields prompt "
            "and answer, or --doc_to_text and --doc_to_target"
        )
    path = folder / FILE
    known = _read(path)
    settings = f"{backbone.identity.digest} {window} {max_gen_toks}"
    if until:
        prompted = [one._replace(until=tuple(until)) for one in prompted]
    keys = {one: _key(settings, one) for one in prompted}
    missing = [one for one in prompted if keys[one] not in known]
    groups = list(_groups(missing, batch_size))
    try:
        for group in tqdm(groups, desc="answers", unit="batch", disable=not groups):
            found = _answer(backbone, group, max_gen_toks, window)
            new = {keys[one]: text for one, text in zip(group, found, strict=True)}
            with path.open("a", encoding="utf-8") as lines:
                rows = ({"key": key, "answer": text} for key, text in new.items())
                lines.writelines(json.dumps(row) + "\n" for row in rows)
            known |= new
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error}") from error
    documents = (one._replace(answer=known[keys[one]], until=()) for one in prompted)
    return LocalSource(tuple(one for one in documents if one.answer), seed)


def _groups(documents: Sequence[Document], size: int) -> Iterator[list[Document]]:
    """Documents to answer together: they end alike, and are of similar length.

    What takes longest, and most memory, is first of those that end alike.
    """
    ordered = sorted(documents, key=lambda one: (one.until, -len(one.prompt)))
    for _, alike in groupby(ordered, key=lambda one: one.until):
        rest = list(alike)
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


def _answer(
    backbone: Backbone, documents: Sequence[Document], max_gen_toks: int, window: int
) -> list[str]:
    """Greedy answers to documents that end alike, each with the token that completes a stop."""
    prompts = [backbone.encode(one.prompt)[-(window - max_gen_toks) :] for one in documents]
    own = backbone.model.generation_config.to_diff_dict()
    answer = _by_engine if own.keys() <= _NOT_GREEDY else _by_transformers
    return list(answer(backbone, prompts, max_gen_toks, documents[0].until))


def _by_engine(
    backbone: Backbone, prompts: Sequence[list[int]], max_gen_toks: int, until: Sequence[str]
) -> Iterator[str]:
    """The most likely tokens."""
    tokenizer: Any = backbone.tokenizer
    ends = backbone.end_ids

    def stops(answer: Sequence[int]) -> bool:
        if answer and answer[-1] in ends:
            return True
        return bool(until) and any(stop in tokenizer.decode(list(answer)) for stop in until)

    requests = [GenerateRequest(tuple(row), max_gen_toks, stops) for row in prompts]
    with torch.inference_mode():
        made = generate(backbone.stack, requests)
    for one in made:
        tokens = list(one.trace.tokens)
        text: str = tokenizer.decode(tokens[:-1] if tokens[-1] in ends else tokens)
        yield text


def _by_transformers(
    backbone: Backbone, prompts: Sequence[list[int]], max_gen_toks: int, until: Sequence[str]
) -> Iterator[str]:
    """The same under the checkpoint's own options, such as a repetition penalty."""
    tokenizer: Any = backbone.tokenizer
    longest, ends = max(map(len, prompts)), backbone.end_ids
    pad = tokenizer.eos_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    device = backbone.stack.device
    made = backbone.model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_length=longest + max_gen_toks,
        do_sample=False,
        pad_token_id=pad,
        stop_strings=list(until) or None,
        tokenizer=tokenizer if until else None,
    )
    for row in made[:, longest:].tolist():
        end = next((at for at, one in enumerate(row) if one in ends), len(row))
        texts = (tokenizer.decode(row[:count]) for count in range(1, end + 1))
        whole: str = tokenizer.decode(row[:end])
        yield next((text for text in texts if any(stop in text for stop in until)), whole)


def _read(path: Path) -> dict[str, str]:
    """Answers by key; a line that is damaged or incomplete is dropped, and answered again."""
    if not path.exists():
        return {}
    known: dict[str, str] = {}
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            key, answer = row["key"], row["answer"]
        except (ValueError, TypeError, KeyError):
            continue
        if not isinstance(key, str) or not isinstance(answer, str):
            continue
        known[key] = answer
        kept.append(line + "\n")
    write_text(path, "".join(kept))
    return known


def _key(settings: str, document: Document) -> str:
    """Of a prompt and everything that its answer depends on."""
    whole = f"{settings} {list(document.until)} {document.prompt}"
    return hashlib.sha256(whole.encode()).hexdigest()[:24]
