"""Answers of the frozen model itself as training text, as at run time.

They are greedy full-depth answers, stored in a file. At run time exits are checked along the
model's own answers, which have higher confidence and less variety than those of a data set.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_text
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.phase_timer import seconds_of
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.sources import LocalSource, Source

FILE = "answers.jsonl"

_KINDS = 4
"""Kinds of documents, by what ends their answers, of which groups are tried first."""
_TRIED = 3
"""Groups tried of a kind, of different length, where it has three times as many."""

_NOT_GREEDY = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
        *("max_length", "use_cache", "_from_model_config", "transformers_version"),
    }
)
"""Options of a checkpoint's generation configuration that change no token of a greedy search."""


class AnswerTrial(NamedTuple):
    """What the first answers tell about all of them.

    Attributes:
        seconds: that all answers which were missing take, about.
        documents: those answered so far, with their answers.
        of: number of all documents.
    """

    seconds: float
    documents: tuple[Document, ...]
    of: int


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
    on_trial: Callable[[AnswerTrial], None] | None = None,
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
        on_trial: called once, after the first answers of every kind of document, which are kept.

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
    first, rest = _trial_first(list(_groups(missing, batch_size)))
    pace = _Pace(missing)

    def answer_group(group: Sequence[Document]) -> None:
        found = _answer(backbone, group, max_gen_toks, window)
        new = {keys[one]: text for one, text in zip(group, found, strict=True)}
        with path.open("a", encoding="utf-8") as lines:
            rows = ({"key": key, "answer": text} for key, text in new.items())
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        known.update(new)

    def with_answers() -> tuple[Document, ...]:
        here = (one for one in prompted if keys[one] in known)
        documents = (one._replace(answer=known[keys[one]], until=()) for one in here)
        return tuple(one for one in documents if one.answer)

    try:
        with tqdm(total=len(missing), desc="answers", unit="answer", disable=not missing) as bar:
            if on_trial is not None and first:
                _answer(backbone, first[0][:1], 1, window)  # the first pass is slower
            for group in first:
                pace.took(group, seconds_of(partial(answer_group, group)))
                bar.update(len(group))
            if on_trial is not None:
                on_trial(AnswerTrial(pace.seconds, with_answers(), len(prompted)))
            for group in rest:
                answer_group(group)
                bar.update(len(group))
    except OSError as error:
        raise SettingError(f"cannot write {path}: {error}") from error
    return LocalSource(with_answers(), seed)


class _Pace:
    """Seconds of all documents, from those of some groups: documents that end alike, take alike."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._all = Counter(one.until for one in documents)
        self._tried: Counter[tuple[str, ...]] = Counter()
        self._seconds: dict[tuple[str, ...], float] = defaultdict(float)

    def took(self, group: Sequence[Document], seconds: float) -> None:
        """Count a group."""
        self._tried[group[0].until] += len(group)
        self._seconds[group[0].until] += seconds

    @property
    def seconds(self) -> float:
        """Of all; a kind of which none was tried takes the mean of the others."""
        tried = self._tried.total()
        usual = sum(self._seconds.values()) / tried if tried else 0.0
        return sum(
            count * (self._seconds[kind] / self._tried[kind] if kind in self._tried else usual)
            for kind, count in self._all.items()
        )


def _trial_first(
    groups: Sequence[list[Document]],
) -> tuple[list[list[Document]], list[list[Document]]]:
    """The groups to try, spread over the lengths of those that end alike, and all others."""
    kinds: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        kinds[group[0].until].append(number)
    most = sorted(kinds.values(), key=len, reverse=True)[:_KINDS]
    tried = sorted(number for numbers in most for number in _spread(numbers))
    rest = [group for number, group in enumerate(groups) if number not in tried]
    return [groups[number] for number in tried], rest


def _spread(numbers: Sequence[int]) -> list[int]:
    """The middles of equal parts."""
    parts = _TRIED if len(numbers) >= 3 * _TRIED else 1
    return [numbers[len(numbers) * (2 * part + 1) // (2 * parts)] for part in range(parts)]


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
