"""Token-by-token generation with exits, and its full-depth reference.

Owns the decoding loop and the reference's short cut: one parallel full-depth pass over the emitted
tokens, generating further only from the first disagreement. It does not know tokenizers, stop
strings, documents or how a token is chosen from logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from dynamax_lm.catchup import crowded
from dynamax_lm.engine.loop import catch_up, run_chunk
from dynamax_lm.engine.memory import Memory
from dynamax_lm.engine.phases import Phases
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.trained import Advice, TrainedHeads
from dynamax_lm.models.stack import Chunk, LayerStack
from dynamax_lm.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.trace import AnswerTrace


class Chooser(Protocol):
    """Chooses one row's next token; the same arguments always give the same token."""

    def __call__(self, answer: Sequence[int], logits: Tensor) -> int:
        """The next token after ``answer``, from raw ``logits`` (1, V)."""
        ...


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A text to continue.

    Attributes:
        prompt: token ids, at least one.
        max_new: most tokens to generate, at least 1.
        stops: whether an answer that ends like this is finished; its last token counts.
        chooser: how to choose a token; ``None`` takes the most likely one.
        key: stands for all of the above in a memory: equal keys, equal full-depth answers.
    """

    prompt: tuple[int, ...]
    max_new: int
    stops: Callable[[Sequence[int]], bool]
    chooser: Chooser | None = None
    key: str | None = None

    def finished(self, answer: Sequence[int]) -> bool:
        """Whether nothing may follow ``answer``."""
        return len(answer) >= self.max_new or self.stops(answer)


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A generated answer.

    Attributes:
        trace: its tokens and their depths.
        reference: the full-depth model's own answer, or ``None``.
    """

    trace: AnswerTrace
    reference: tuple[int, ...] | None


@dataclass
class _Progress:
    """One row's answer so far."""

    tokens: list[int] = field(default_factory=list)
    layers_used: list[int] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)


class _Next:
    """Chooses tokens for a chunk: cell i continues ``prefixes[i]`` of request ``owners[i]``."""

    def __init__(
        self, owners: Sequence[GenerateRequest], prefixes: Sequence[Sequence[int]]
    ) -> None:
        self._owners = owners
        self._prefixes = prefixes
        self.tokens = torch.zeros(len(owners), dtype=torch.long)

    def choose(self, index: Tensor, logits: Tensor) -> Tensor:
        chosen = logits.argmax(-1)
        for place, cell in enumerate(index.tolist()):
            chooser = self._owners[cell].chooser
            if chooser is not None:
                chosen[place] = chooser(self._prefixes[cell], logits[place : place + 1])
        return chosen

    def emit(self, index: Tensor, logits: Tensor) -> None:
        self.tokens[index.cpu()] = self.choose(index, logits).cpu()


def generate(
    stack: LayerStack,
    requests: Sequence[GenerateRequest],
    *,
    policy: ExitPolicy = FULL_DEPTH,
    skipped_state: str = "propagate",
    reference: bool = False,
    heads: TrainedHeads | None = None,
    phases: Phases | None = None,
    memory: Memory | None = None,
) -> list[GeneratedAnswer]:
    """Continue every request, each token leaving where the policy says.

    Args:
        stack: the decoder.
        requests: what to continue, as one batch.
        policy: when a token leaves.
        skipped_state: what skipped layers remember.
        reference: whether to find the full-depth model's answers as well.
        heads: trained classifiers and translators of the exits, if any.
        phases: where to add the seconds spent.
        memory: what earlier runs over the same requests left to share.
    """
    phases = phases or Phases()
    prompts = [request.prompt for request in requests]
    with phases.measure("prompt"):
        if memory is None:
            state = prefill(stack, prompts)
        else:
            state = memory.prompt_state(stack, prompts, range(len(prompts)))
    exits = bool(policy.exit_layers)
    mark = stack.mark(state) if reference and exits else None
    rows = [_Progress() for _ in requests]
    with phases.measure("answer"):
        _decode(stack, state, requests, rows, policy, skipped_state, heads)
    full_depth: Sequence[Sequence[int] | None] = [None] * len(rows)
    answers: Sequence[Sequence[int] | None] = [None] * len(rows)
    if reference and mark is None:
        full_depth = answers = [row.tokens for row in rows]
    elif reference:
        with phases.measure("reference"):
            full_depth, answers = _compare(stack, state, mark, requests, rows, memory)
    return [
        GeneratedAnswer(
            AnswerTrace(
                prompt_tokens=len(request.prompt) - 1,
                tokens=tuple(row.tokens),
                emitted=tuple(row.tokens),
                layers_used=tuple(row.layers_used),
                confidence=tuple(row.confidence),
                full_depth=None if tokens is None else tuple(tokens),
            ),
            None if answer is None else tuple(answer),
        )
        for request, row, tokens, answer in zip(requests, rows, full_depth, answers, strict=True)
    ]


def _decode(
    stack: LayerStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[_Progress],
    policy: ExitPolicy,
    skipped_state: str,
    heads: TrainedHeads | None,
) -> None:
    """Generate until every row has finished; a finished row is no longer run."""
    exact = stack.take(state, range(len(rows))) if policy.needs_target else None
    advice = Advice.of(heads, len(rows))
    active = list(range(len(rows)))
    while active:
        last = [(rows[row].tokens or requests[row].prompt)[-1] for row in active]
        chunk = Chunk.of([[token] for token in last], active, stack.device)
        owners = [requests[row] for row in active]
        prefixes = [rows[row].tokens for row in active]
        targets: Tensor | None = None
        if exact is not None:
            full = _Next(owners, prefixes)
            run_chunk(stack, exact, chunk, full)
            targets = full.tokens.to(stack.device)
        chosen = _Next(owners, prefixes)
        depths = run_chunk(
            stack,
            state,
            chunk,
            chosen,
            policy=policy,
            skipped_state=skipped_state,
            targets=targets,
            advice=advice,
        )
        steps = zip(
            active,
            chosen.tokens.tolist(),
            depths.layers_used.tolist(),
            depths.confidence.tolist(),
            strict=True,
        )
        for row, token, used, sure in steps:
            rows[row].tokens.append(token)
            rows[row].layers_used.append(used)
            rows[row].confidence.append(None if sure != sure else sure)
        active = [row for row in active if not requests[row].finished(rows[row].tokens)]
        catch_up(stack, state, [row for row in active if crowded(state.waiting.count(row))])


def _inputs(request: GenerateRequest, answer: Sequence[int], steps: int) -> list[int]:
    """The tokens fed to make the first ``steps`` tokens of ``answer``."""
    return [request.prompt[-1], *answer[: steps - 1]]


def _compare(
    stack: LayerStack,
    state: Any,
    mark: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[_Progress],
    memory: Memory | None,
) -> tuple[list[list[int]], list[list[int]]]:
    """What full depth emits after each prefix of each answer, and its own answers.

    A row that gave full depth's own answer, known from an earlier run, needs neither again.
    """
    known: list[Sequence[int] | None] = [None] * len(rows)
    if memory is not None:
        known = [memory.find_answer(request.key) for request in requests]
    full_depth = [list(row.tokens) for row in rows]
    differing = [
        number
        for number, (row, answer) in enumerate(zip(rows, known, strict=True))
        if answer is None or list(answer) != row.tokens
    ]
    if differing:
        stack.rewind(state, mark)
        tokens = _parallel(stack, state, requests, rows, differing)
        for number, some in zip(differing, tokens, strict=True):
            full_depth[number] = some
    unknown = [number for number in differing if known[number] is None]
    answers = [list(answer or ()) for answer in known]
    if unknown:
        stack.rewind(state, mark)
        for number, own in zip(
            unknown, _continue(stack, state, requests, rows, full_depth, unknown), strict=True
        ):
            answers[number] = own
            if memory is not None:
                memory.keep_answer(requests[number].key, own)
    return full_depth, answers


def _parallel(
    stack: LayerStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[_Progress],
    numbers: Sequence[int],
) -> list[list[int]]:
    """What full depth emits after each prefix of the answers ``numbers``, in one pass."""
    inputs = [
        _inputs(requests[number], rows[number].tokens, len(rows[number].tokens))
        for number in numbers
    ]
    owners = [requests[number] for number in numbers for _ in rows[number].tokens]
    prefixes = [
        rows[number].tokens[:step] for number in numbers for step in range(len(rows[number].tokens))
    ]
    chosen = _Next(owners, prefixes)
    run_chunk(stack, state, Chunk.of(inputs, numbers, stack.device), chosen)
    tokens = iter(chosen.tokens.tolist())
    return [[next(tokens) for _ in rows[number].tokens] for number in numbers]


def _continue(
    stack: LayerStack,
    state: Any,
    requests: Sequence[GenerateRequest],
    rows: Sequence[_Progress],
    full_depth: Sequence[Sequence[int]],
    numbers: Sequence[int],
) -> list[list[int]]:
    """Full-depth answers: the emitted one, or from the first disagreement full depth's own."""
    answers: dict[int, list[int]] = {}
    unfinished: list[int] = []
    for number in numbers:
        request, row, tokens = requests[number], rows[number], full_depth[number]
        pairs = enumerate(zip(row.tokens, tokens, strict=True))
        differs = next((step for step, (ours, full) in pairs if ours != full), None)
        if differs is None:
            answers[number] = list(row.tokens)
            continue
        answers[number] = [*row.tokens[:differs], tokens[differs]]
        if not request.finished(answers[number]):
            unfinished.append(number)
    if unfinished:
        some = [requests[number] for number in unfinished]
        inputs = [
            _inputs(requests[number], answers[number], len(answers[number]))
            for number in unfinished
        ]
        forked = stack.take(state, unfinished)
        chunk = Chunk.of(inputs, range(len(unfinished)), stack.device)
        run_chunk(stack, forked, chunk, None)
        progress = [_Progress(tokens=answers[number]) for number in unfinished]
        _decode(stack, forked, some, progress, FULL_DEPTH, "propagate", None)
    return [answers[number] for number in numbers]
