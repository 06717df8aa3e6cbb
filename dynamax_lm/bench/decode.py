"""Decoding benchmarks: full depth against transformers and the limit, by batch and by context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import GenerationConfig

from dynamax_lm.bench.limits import bandwidth, bare_products, bytes_read
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject, token_ids
from dynamax_lm.bench.timing import Contestant, medians, per_step, samples
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest


def endless(answer: Any) -> bool:
    """A stop rule that never stops."""
    del answer
    return False


def ours(
    subject: Subject,
    prompts: list[tuple[int, ...]],
    new: int,
    policy: ExitPolicy = FULL_DEPTH,
    **options: Any,
) -> Contestant:
    """This package's decoder, generating ``new`` tokens a row."""
    requests = [GenerateRequest(prompt, new, endless) for prompt in prompts]
    return lambda: generate(subject.stack, requests, policy=policy, **options)


def theirs(subject: Subject, prompts: list[tuple[int, ...]], new: int) -> Contestant:
    """Transformers' own generate."""
    ids = token_ids(prompts, subject.stack.device)
    mask = ids.new_ones(ids.shape)
    # a checkpoint's own max_length beside max_new_tokens is warned of at every call
    how = GenerationConfig(max_new_tokens=new, max_length=None, do_sample=False, pad_token_id=0)
    return lambda: subject.model.generate(ids, attention_mask=mask, generation_config=how)


def decode(subject: Subject, batches: Sequence[int]) -> Iterator[Row]:
    """Full depth, by batch: against transformers' generate, and against the limit."""
    steps = subject.steps
    goals = {(True, 1): 1.15, (True, 8): 1.4, (False, 1): 1.15, (False, 8): 2.2}
    speed = bandwidth(str(subject.stack.device))
    for batch in batches:
        prompts = subject.prompts(batch, 32)
        taken = samples(
            {
                "ours short": ours(subject, prompts, 2),
                "ours long": ours(subject, prompts, 2 + steps),
                "theirs short": theirs(subject, prompts, 2),
                "theirs long": theirs(subject, prompts, 2 + steps),
                "products": bare_products(subject, batch),
                "F.linear": bare_products(subject, batch, plain=True),
            },
            subject.rounds,
        )
        mine = per_step("ours short", "ours long", steps, taken)
        other = per_step("theirs short", "theirs long", steps, taken)
        found = medians(taken)
        what = f"decode at full depth, batch {batch}"
        yield Row(
            "Decode",
            subject.name,
            what,
            "transformers' generate / ours",
            other / mine,
            goals.get((subject.attention, batch), 1.0),
            seconds={"ours": mine, "transformers": other},
        )
        yield Row(
            "Decode",
            subject.name,
            what,
            "ours / limit (bare products)",
            mine / min(found["products"], found["F.linear"]),
            1.2,
            at_most=True,
            seconds={
                "ours": mine,
                "products": found["products"],
                "F.linear": found["F.linear"],
                "bytes over bandwidth": bytes_read(subject) / speed,
            },
        )


def context(subject: Subject) -> Iterator[Row]:
    """Cost per token as the context grows.

    The prompt is prefilled before timing starts: its noise alone would exceed a step.
    """
    steps = 4 if subject.quick else 12
    lengths = [128, 512] if subject.quick else [128, 1024, 4096]
    taken = samples(
        {str(length): _steps_after(subject, length, steps) for length in lengths},
        subject.rounds if subject.quick else max(15, subject.rounds),
    )
    costs = {name: seconds / steps for name, seconds in medians(taken).items()}
    for length in lengths[1:]:
        yield Row(
            "Context",
            subject.name,
            f"a token after {length} tokens",
            f"of a token after {lengths[0]}",
            costs[str(length)] / costs[str(lengths[0])],
            None if subject.attention else 1.1,
            at_most=True,
            seconds={"ours": costs[str(length)], "after the shortest": costs[str(lengths[0])]},
        )


def _steps_after(subject: Subject, length: int, steps: int) -> Contestant:
    """``steps`` tokens at full depth after a prompt of ``length``, which are fixed."""
    stack = subject.stack
    state = prefill(stack, subject.prompts(1, length))
    mark = stack.mark(state)
    token_batch = TokenBatch.of([[5]], [0], stack.device)

    def run() -> None:
        stack.rewind(state, mark)
        for _ in range(steps):
            current = stack.begin(state, token_batch, "propagate")
            hidden = stack.embed(current)
            for index in range(stack.n_layers):
                hidden = stack.layer(index, hidden, current)
            stack.end(state, current)
            stack.unembed(hidden)

    return run
