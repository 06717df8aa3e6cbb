"""Answers of the frozen model itself as training text, as at run time.

They are greedy full-depth answers, stored in a file. At run time exits are checked along the
model's own answers, which have higher confidence and less variety than those of a data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.data import Document, LocalSource, Source

FILE = "answers.jsonl"


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
        until: an answer ends with the token that completes one of these.
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
    settings = f"{backbone.identity.digest} {window} {max_gen_toks} {list(until)}"
    keys = {one.prompt: _key(settings, one) for one in prompted}
    missing = [one for one in prompted if keys[one.prompt] not in known]
    missing.sort(key=lambda one: len(one.prompt))
    groups = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
    try:
        for group in tqdm(groups, desc="answers", unit="batch", disable=not groups):
            found = list(_answer(backbone, group, max_gen_toks, until, window))
            known |= {keys[one.prompt]: text for one, text in zip(group, found, strict=True)}
            with path.open("a", encoding="utf-8") as lines:
                lines.writelines(
                    json.dumps({"key": keys[one.prompt], "answer": known[keys[one.prompt]]}) + "\n"
                    for one in group
                )
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error}") from error
    documents = (one._replace(answer=known[keys[one.prompt]]) for one in prompted)
    return LocalSource(tuple(one for one in documents if one.answer), seed)


def _answer(
    backbone: Backbone,
    documents: Sequence[Document],
    max_gen_toks: int,
    until: Sequence[str],
    window: int,
) -> Iterator[str]:
    """Greedy answers, up to and including the token that completes a stop."""
    tokenizer: Any = backbone.tokenizer
    rows = [backbone.encode(one.prompt)[-(window - max_gen_toks) :] for one in documents]
    longest = max(len(row) for row in rows)
    pad = tokenizer.eos_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
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
        if tokenizer.eos_token_id in row:
            row = row[: row.index(tokenizer.eos_token_id)]
        yield _cut(tokenizer, row, until)


def _cut(tokenizer: Any, row: list[int], until: Sequence[str]) -> str:
    for end in range(1, len(row) + 1):
        text: str = tokenizer.decode(row[:end])
        if any(stop in text for stop in until):
            return text
    whole: str = tokenizer.decode(row)
    return whole


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
    return hashlib.sha256(f"{settings} {document.prompt}".encode()).hexdigest()[:24]
