"""How fast is ``mode=lossless``? Decoding over full depth's, by exit, threshold and draft length.

    python -m benchmarks.lossless --model dynamax-mamba --model_args pretrained=tiny --batch_size 1

Both modes decode the same prompts of a sample task in one process, one after the other, from states
that are prefilled already; each ratio is of the quickest of several rounds. The bound from
acceptance and depth is given with it: a draft of d tokens of which a are accepted gives a + 1
tokens for d + 1 passes through k of L layers and one through the others, if a pass over many tokens
cost as much as over one and checks cost nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import torch

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.processor import processor_name
from dynamax_lm.core.drafts import Drafts
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.engine.lossless import AUTO, decode_lossless
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.harness.command_line import Command, add_lm_eval_options
from dynamax_lm.models.requests import text_request


class Point(NamedTuple):
    """One setting."""

    exit_layer: int
    threshold: float
    draft_length: int


def main() -> None:
    """Print a table, one row a setting."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    command = Command(options)
    lm = command.load(command.model_args)
    batches = _batches(lm, options.sample, options.documents, int(options.batch_size), options.new)
    exits = options.exits or _candidates(lm)
    points = [Point(*one) for one in product(exits, options.thresholds, options.draft_lengths)]
    rows = []
    with torch.inference_mode():
        states = [prefill(lm.stack, [one.prompt for one in batch]) for batch in batches]
        _full(lm, batches, states)  # warms up
        for point in points:
            policy = ExitPolicy((point.exit_layer,), options.confidence, point.threshold)
            full = min(_full(lm, batches, states) for _ in range(options.rounds))
            runs = [
                _lossless(lm, batches, states, policy, point.draft_length)
                for _ in range(options.rounds)
            ]
            rows.append(_row(lm, point, full, min(runs, key=lambda one: one[0])))
            print(" ".join(map(str, rows[-1])), flush=True)
    print(f"\n{processor_name()}, 1 thread, batch size {options.batch_size}\n")
    head = ["exit", "threshold", "draft", "accepted", "tokens a round", "speed", "bound"]
    print(markdown_table(head, [list(map(str, row)) for row in rows]))


def _full(lm: Any, batches: Sequence[Sequence[GenerateRequest]], states: Sequence[Any]) -> float:
    seconds = 0.0
    for batch, state in zip(batches, states, strict=True):
        own, rows = lm.stack.take(state, range(len(batch))), [Progress() for _ in batch]
        start = perf_counter()
        decode(lm.stack, own, batch, rows, FULL_DEPTH, "propagate", None)
        seconds += perf_counter() - start
    return seconds


def _lossless(
    lm: Any,
    batches: Sequence[Sequence[GenerateRequest]],
    states: Sequence[Any],
    policy: ExitPolicy,
    draft_length: int,
) -> tuple[float, list[Progress]]:
    seconds, answers = 0.0, []
    for batch, state in zip(batches, states, strict=True):
        own, rows = lm.stack.take(state, range(len(batch))), [Progress() for _ in batch]
        session = HeadSession.of(lm.exit_heads, len(batch))
        start = perf_counter()
        decode_lossless(lm.stack, own, batch, rows, policy, session, draft_length)
        seconds += perf_counter() - start
        answers += rows
    return seconds, answers


def _row(lm: Any, point: Point, full: float, run: tuple[float, list[Progress]]) -> list[Any]:
    seconds, answers = run
    found = Drafts.counted((len(answer.tokens), answer.rounds) for answer in answers)
    share = point.exit_layer / lm.stack.n_layers
    cost = found.inputs * share + found.rounds * (1 - share)
    return [
        point.exit_layer,
        point.threshold,
        point.draft_length or "auto",
        f"{found.acceptance_rate or 0:.0%}",
        f"{found.tokens / found.rounds:.2f}",
        f"{full / seconds:.2f}",
        f"{found.tokens / cost:.2f}",
    ]


def _candidates(lm: Any) -> list[int]:
    if lm.exit_heads is not None:
        return list(lm.exit_heads.config.exit_layers)
    layers = lm.stack.n_layers
    return sorted({max(1, layers // 4), max(1, layers // 3), max(1, layers // 2)})


def _batches(
    lm: Any, task: str, documents: int, batch_size: int, new: int
) -> list[list[GenerateRequest]]:
    from lm_eval.tasks import TaskManager, get_task_dict

    (found,) = get_task_dict([task], TaskManager()).values()
    docs = list(found.eval_docs)[:documents]
    requests = []
    for doc in docs:
        request = text_request(lm, found.doc_to_text(doc), {"max_gen_toks": new}, seed=0).request
        requests.append(request)
    return [requests[at : at + batch_size] for at in range(0, len(requests), batch_size)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_lm_eval_options(parser)
    parser.add_argument("--sample", default="dynamax_coqa_sample", help="its prompts are used")
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--new", type=int, default=32, help="most tokens of an answer")
    parser.add_argument("--confidence", default="top_prob")
    parser.add_argument("--exits", type=int, nargs="*")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.0, 0.4, 0.7])
    parser.add_argument("--draft_lengths", type=int, nargs="*", default=[AUTO])
    parser.add_argument("--rounds", type=int, default=3)
    parser.set_defaults(tasks="dynamax_coqa_sample")
    return parser


if __name__ == "__main__":
    main()
