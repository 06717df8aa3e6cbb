"""The model's own full-depth answers, and the hidden states of their tokens at every exit.

Answers are generated at full depth, and the exit probe then reads them in one parallel pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.criteria.prompts import Prompt
from benchmarks.criteria.states import States, Writer
from dynamax_lm.core.exit_view import ExitView
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.exit_probe import ExitObserver, HiddenStates, probe_exits
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import SHORTEST_PREFIX, SharedPrefixes
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.models.requests import TextRequests, answer_text, answer_text_tokens
from dynamax_lm.settings.layers import NAME as LAYERS

_PIECE = 32

TextOf = Callable[[int, Sequence[int]], int]
"""A document's number and its answer's tokens to how many of these make its text."""


def requests_of(lm: Any, prompts: Sequence[Prompt]) -> list[GenerateRequest]:
    """A generation request for each prompt, as lm-eval makes it, with greedy decoding.

    Args:
        lm: a loaded ``dynamax-…`` model.
        prompts: the documents.
    """
    found, resolver = [], TextRequests(lm)
    for one in prompts:
        request = resolver.resolve(one.text, dict(one.gen_kwargs), seed=0).request
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


def outside_layers(lm: Any) -> str | None:
    """The name of the layers that a loaded model runs in place of its checkpoint's own, if any."""
    settings = lm.get_model_info()["early_exit"]["settings"]
    name: str | None = settings["arguments"].get(LAYERS)
    return name


def stack_of(lm: Any) -> Any:
    """The decoder of a loaded model; of the checkpoint's own layers with plain products."""
    return type(lm).STACK(lm.model) if outside_layers(lm) is None else lm.stack


def collect_prompts(
    lm: Any,
    prompts: Sequence[Prompt],
    exits: Sequence[int],
    folder: Path,
    *,
    dtype: str,
    batch_size: int,
    windows: Sequence[Sequence[int]] = (),
    prompts_too: bool = False,
) -> States:
    """:func:`collect` of a loaded ``dynamax-…`` model's answers to ``prompts``."""
    return collect(
        stack_of(lm),
        requests_of(lm, prompts),
        [one.task for one in prompts],
        exits,
        folder,
        text_of=text_tokens(lm, prompts),
        batch_size=batch_size,
        dtype=dtype,
        windows=windows,
        prompts_too=prompts_too,
    )


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
    prompts_too: bool = False,
) -> States:
    """Generate every answer at full depth and keep its states, task by task, shortest prompt first.

    Windows of text are read as well, each in one pass: full depth's most likely token after every
    prefix takes the place of an answer, in pieces as long as answers are. The same computation then
    gives far more tokens.

    Args:
        stack: the decoder.
        requests: the documents.
        tasks: of each.
        exits: layers to read, ascending; L is read too.
        folder: where the states are written.
        text_of: how many of a document's answer tokens make its text.
        batch_size: answers generated at a time.
        dtype: of the states on disk.
        windows: token ids of text; the task of each is ``text``.
        prompts_too: whether the tokens of prompts are kept as text as well, but for what a batch
            of prompts begins with alike.
    """
    layers = (*exits, stack.n_layers)
    writer = Writer(folder, layers, dtype)
    prefixes = SharedPrefixes(stack)
    with torch.inference_mode(), tqdm(total=len(requests), desc=f"answers in {folder.name}") as bar:
        for numbers in _batches(requests, tasks, batch_size):
            some = [requests[number] for number in numbers]
            answers = [answer.trace.tokens for answer in generate(stack, some)]
            begun = _alike(some) if prompts_too else [len(one.prompt) - 1 for one in some]
            inputs = [
                [*request.prompt[start:], *tokens[:-1]]
                for start, request, tokens in zip(begun, some, answers, strict=True)
            ]
            before = [(*one.prompt[:at], 0) for at, one in zip(begun, some, strict=True)]
            state = prefixes.prefill(before)
            full_depth = _FullDepthTokens(sum(map(len, inputs)))
            observers = [full_depth] if prompts_too else []
            hidden = _read(stack, state, inputs, exits, *observers)
            emitted = full_depth.tokens.split([len(one) for one in inputs])
            rows = zip(numbers, some, answers, begun, hidden, emitted, strict=True)
            for number, request, tokens, at, states, said in rows:
                own = len(request.prompt) - 1 - at
                if own:
                    _add_text(writer, request.prompt, at, [one[:own] for one in states], said)
                text = text_of(number, tokens)
                kept = [one[own:] for one in states]
                writer.add(tasks[number], request.prompt, tokens, kept, text)
            bar.update(len(numbers))
        for start in range(0, len(windows), batch_size):
            _read_text(stack, windows[start : start + batch_size], exits, writer)
    return writer.close()


def _read(
    stack: Any,
    state: Any,
    inputs: Sequence[Sequence[int]],
    exits: Sequence[int],
    *further: ExitObserver,
) -> list[list[Tensor]]:
    """(T, D) of each row's tokens, at every exit and after the last layer."""
    token_batch = TokenBatch.of(inputs, range(len(inputs)), stack.device)
    count = sum(token_batch.lengths)
    seen = HiddenStates(torch.arange(count), count, len(exits))
    probe_exits(stack, state, token_batch, exits, [seen, *further])
    by_layer = [states.split(list(token_batch.lengths)) for states in seen.hidden]
    return [list(row) for row in zip(*by_layer, strict=True)]


def _read_text(
    stack: Any, windows: Sequence[Sequence[int]], exits: Sequence[int], writer: Writer
) -> None:
    full_depth = _FullDepthTokens(sum(map(len, windows)))
    rows = _read(stack, stack.new_state(len(windows)), windows, exits, full_depth)
    emitted = full_depth.tokens.split([len(window) for window in windows])
    for window, hidden, tokens in zip(windows, rows, emitted, strict=True):
        _add_text(writer, window, 0, hidden, tokens)


def _add_text(
    writer: Writer, ids: Sequence[int], begun: int, hidden: Sequence[Tensor], emitted: Tensor
) -> None:
    """Tokens of ``ids`` from ``begun`` on, with what full depth emits after them, in pieces."""
    count = len(hidden[0])
    for start in range(0, count, _PIECE):
        part = slice(start, min(start + _PIECE, count))
        some = emitted[part].tolist()
        pieces = [states[part] for states in hidden]
        writer.add("text", ids[: begun + start + 1], some, pieces, len(some))


def _batches(
    requests: Sequence[GenerateRequest], tasks: Sequence[str], size: int
) -> Iterator[list[int]]:
    """Numbers of requests: one task at a time, shortest prompt first."""
    order = sorted(range(len(requests)), key=lambda one: (tasks[one], len(requests[one].prompt)))
    for _, group in groupby(order, lambda number: tasks[number]):
        numbers = list(group)
        yield from (numbers[at : at + size] for at in range(0, len(numbers), size))


def _alike(requests: Sequence[GenerateRequest]) -> list[int]:
    """Length of the common prefix of all prompts; 0 where it is too short to be run once."""
    if len(requests) == 1:
        return [0]
    columns = zip(*(request.prompt[:-1] for request in requests), strict=False)
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return [common if common >= SHORTEST_PREFIX else 0] * len(requests)


class _FullDepthTokens:
    """Keeps full depth's most likely tokens; no exit is projected for it."""

    def __init__(self, count: int) -> None:
        self.tokens = torch.zeros(count, dtype=torch.long)

    def on_exit(self, view: ExitView) -> None:
        """Nothing to keep."""

    def on_full_depth(self, index: Tensor, hidden: Tensor, logits: Callable[[], Tensor]) -> None:
        """Keep them."""
        del hidden
        self.tokens[index.cpu()] = logits().argmax(-1).cpu()
