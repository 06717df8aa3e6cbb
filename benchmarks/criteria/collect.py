"""The model's own full-depth answers, and the hidden states they passed through.

Owns the only run of the backbone at full depth. Nothing is run twice: the states are read while the
answer is generated. It does not know measures, heads or thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.criteria.prompts import Prompt
from benchmarks.criteria.states import States, Writer
from dynamax_lm.core.decode import GenerateRequest
from dynamax_lm.core.generate import generate
from dynamax_lm.core.loop import run_chunk
from dynamax_lm.core.stack import Chunk, Run
from dynamax_lm.models.requests import answer_text, answer_text_tokens, text_request

_PIECE = 32

TextOf = Callable[[int, Sequence[int]], int]
"""A document's number and its answer's tokens to how many of these make its text."""


class Recorder:
    """A layer stack that remembers the states of every pass but the prefill.

    Args:
        stack: the decoder behind it.
        layers: where to read, counted from 1.
    """

    def __init__(self, stack: Any, layers: Sequence[int]) -> None:
        self._stack, self._layers = stack, tuple(layers)
        self._rows: dict[int, list[list[Tensor]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def layer(self, index: int, hidden: Tensor, run: Run) -> Tensor:
        """Runs the layer and reads its output."""
        after: Tensor = self._stack.layer(index, hidden, run)
        if not run.chunk.prefill and index + 1 in self._layers:
            place = self._layers.index(index + 1)
            parts = after.detach().cpu().split(list(run.chunk.lengths))  # cells go row by row
            for row, states in zip(run.chunk.rows, parts, strict=True):
                self._rows.setdefault(row, [[] for _ in self._layers])[place].append(states)
        return after

    def taken(self, row: int) -> list[Tensor]:
        """(T, D) at each layer, of a row's steps."""
        return [torch.cat(passes) for passes in self._rows[row]]


def requests_of(lm: Any, prompts: Sequence[Prompt]) -> list[GenerateRequest]:
    """What the engine is asked for each prompt, as lm-eval asks it, by the most likely tokens.

    Args:
        lm: a loaded ``dynamax-…`` model.
        prompts: the documents.
    """
    found = []
    for one in prompts:
        request = text_request(lm, one.text, dict(one.gen_kwargs), seed=0).request
        found.append(GenerateRequest(request.prompt, request.max_new, request.stops))
    return found


def text_tokens(lm: Any, prompts: Sequence[Prompt]) -> TextOf:
    """Counts the tokens of an answer's text, without those of its stop; 0 for an empty text.

    Args:
        lm: a loaded ``dynamax-…`` model.
        prompts: the documents.
    """

    def count(number: int, tokens: Sequence[int]) -> int:
        until = list(prompts[number].gen_kwargs["until"])
        if not answer_text(lm, tokens, until).strip():
            return 0
        return answer_text_tokens(lm, tokens, until)

    return count


def collect(
    stack: Any,
    requests: Sequence[GenerateRequest],
    tasks: Sequence[str],
    exits: Sequence[int],
    folder: Path,
    *,
    text_of: TextOf,
    batch_size: int,
    dtype: str,
    windows: Sequence[Sequence[int]] = (),
) -> States:
    """Generate every answer at full depth and keep its states, shortest prompt first.

    Windows of text are read beside them, each in one pass: full depth's most likely token after
    every prefix takes the place of an answer, in pieces as long as answers are. Far more tokens can
    be had so for the same work.

    Args:
        stack: the decoder.
        requests: the documents.
        tasks: of each.
        exits: layers to read, ascending; L is read too.
        folder: where the states go.
        text_of: how many of a document's answer tokens make its text.
        batch_size: answers generated side by side.
        dtype: of the states on disk.
        windows: token ids of text; the task of each is ``text``.
    """
    layers = (*exits, stack.n_layers)
    order = sorted(range(len(requests)), key=lambda number: len(requests[number].prompt))
    writer = Writer(folder, layers, dtype)
    with torch.inference_mode(), tqdm(total=len(order), desc=f"answers in {folder.name}") as bar:
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            recorder: Any = Recorder(stack, layers)
            answers = generate(recorder, [requests[number] for number in numbers])
            for row, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
                tokens = answer.trace.tokens
                writer.add(
                    tasks[number],
                    requests[number].prompt,
                    tokens,
                    recorder.taken(row),
                    text_of(number, tokens),
                )
            bar.update(len(numbers))
        for start in range(0, len(windows), batch_size):
            _read_text(stack, windows[start : start + batch_size], layers, writer)
    return writer.close()


def _read_text(
    stack: Any, windows: Sequence[Sequence[int]], layers: Sequence[int], writer: Writer
) -> None:
    recorder: Any = Recorder(stack, layers)
    chunk = Chunk.of(windows, range(len(windows)), stack.device)
    emitted = Emitted(sum(chunk.lengths))
    run_chunk(recorder, stack.new_state(len(windows)), chunk, emitted)
    for row, tokens in enumerate(emitted.tokens.split(list(chunk.lengths))):
        hidden = recorder.taken(row)
        for start in range(0, len(tokens), _PIECE):
            part = slice(start, start + _PIECE)
            pieces = [states[part] for states in hidden]
            some = tokens[part].tolist()
            writer.add("text", windows[row][: start + 1], some, pieces, len(some))


class Emitted:
    """Keeps the most likely token of each cell (``dynamax_lm.core.loop.Emitter``)."""

    def __init__(self, count: int) -> None:
        self.tokens = torch.zeros(count, dtype=torch.long)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        """(n,) the most likely tokens."""
        del index
        return logits.argmax(-1)

    def emit(self, index: Tensor, logits: Tensor) -> None:
        """Keep them."""
        self.tokens[index.cpu()] = logits.argmax(-1).cpu()
