"""How fast is ``mode=lossless``? Decoding over full depth's, by exit, threshold and draft length.

    python -m benchmarks.lossless --model dynamax-mamba --model_args pretrained=tiny --batch_size 1

Both modes decode the same prompts of a sample task in turns, in one process and thread, from states
that are prefilled already; a ratio is the median over rounds of processor times. The bound from
acceptance and depth is given with it, (1 + E[accepted]) / (inputs c_draft + checks c_check +
c_verify): the tokens of a round over its cost, if a pass over many tokens cost as much as over one.
Costs are fractions of a full-depth step, counted in FLOPs, the vocabulary projection included.
``--output_path`` adds the rows to a JSON file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any, NamedTuple

import torch

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_json
from dynamax_lm.common.processor import processor_name
from dynamax_lm.core.looks import looking
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.draft_costs import DraftCosts, RoundCounts
from dynamax_lm.engine.draft_length import AUTO
from dynamax_lm.engine.head_session import HeadSession
from dynamax_lm.engine.lossless import decode_lossless
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.harness.command_line import Command, add_lm_eval_options
from dynamax_lm.models.requests import TextRequests


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
    confidence = looking(options.confidence, lm.settings.look.name)
    size = int(options.batch_size)
    batches = sample_batches(lm, options.sample, options.documents, size, options.new)
    exits = options.exits or _candidates(lm)
    points = [Point(*one) for one in product(exits, options.thresholds, options.draft_lengths)]
    rows = []
    with torch.inference_mode():
        states = [prefill(lm.stack, [one.prompt for one in batch]) for batch in batches]
        _full(lm, batches, states)  # warms up
        for point in points:
            policy = ExitPolicy((point.exit_layer,), confidence, point.threshold)
            ratios: list[float] = []
            answers: list[Progress] = []
            for _ in range(options.rounds):
                full = _full(lm, batches, states)
                seconds, answers = _lossless(lm, batches, states, policy, point.draft_length)
                ratios.append(full / seconds)
            rows.append(_row(point, ratios, answers, DraftCosts.of(lm.stack.costs, policy)))
            print(" ".join(map(str, rows[-1].values())), flush=True)
    print(f"\n{processor_name()}, 1 thread, batch size {options.batch_size}\n")
    print(markdown_table(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows]))
    if options.output_path:
        path = Path(options.output_path)
        known = json.loads(path.read_text("utf-8")) if path.exists() else []
        facts = {
            "model": options.label or command.model_args,
            "confidence": confidence,
            "batch": int(options.batch_size),
            "documents": options.documents,
            "new": options.new,
            "rounds": options.rounds,
            "processor": processor_name(),
        }
        write_json(path, [*known, *({**facts, **row} for row in rows)])


def _full(lm: Any, batches: Sequence[Sequence[GenerateRequest]], states: Sequence[Any]) -> float:
    seconds = 0.0
    for batch, state in zip(batches, states, strict=True):
        own, rows = lm.stack.take(state, range(len(batch))), [Progress() for _ in batch]
        start = thread_time()
        decode(lm.stack, own, batch, rows, FULL_DEPTH, "propagate", None)
        seconds += thread_time() - start
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
        start = thread_time()
        decode_lossless(lm.stack, own, batch, rows, policy, session, draft_length)
        seconds += thread_time() - start
        answers += rows
    return seconds, answers


def _row(
    point: Point, ratios: Sequence[float], answers: Sequence[Progress], costs: DraftCosts
) -> dict[str, Any]:
    found = RoundCounts.of(one for answer in answers for one in answer.rounds)
    return {
        "exit": point.exit_layer,
        "threshold": point.threshold,
        "draft": point.draft_length or "auto",
        "accepted": round(found.accepted / found.drafted if found.drafted else 0.0, 3),
        "tokens a round": round(found.tokens / found.rounds, 2),
        "speed": round(median(ratios), 2),
        "slowest and fastest round": f"{min(ratios):.2f}-{max(ratios):.2f}",
        "bound": round(found.bound(costs), 2),
    }


def _candidates(lm: Any) -> list[int]:
    if lm.exit_heads is not None:
        return list(lm.exit_heads.config.exit_layers)
    layers = lm.stack.n_layers
    return sorted({max(1, layers // 4), max(1, layers // 3), max(1, layers // 2)})


def sample_batches(
    lm: Any, task: str, documents: int, batch_size: int, new: int
) -> list[list[GenerateRequest]]:
    """Requests of the first ``documents`` of ``task``, each of at most ``new`` tokens."""
    from lm_eval.tasks import TaskManager, get_task_dict

    (found,) = get_task_dict([task], TaskManager()).values()
    docs = list(found.eval_docs)[:documents]
    resolver, options = TextRequests(lm), {"max_gen_toks": new}
    requests = [resolver.resolve(found.doc_to_text(doc), options, 0).request for doc in docs]
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
    parser.add_argument("--label", help="name of the model in the JSON file")
    parser.set_defaults(tasks="dynamax_coqa_sample")
    return parser


if __name__ == "__main__":
    main()
