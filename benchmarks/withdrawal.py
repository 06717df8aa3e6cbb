r"""How should a Mamba-2 decoder return to an accepted token: replay its inputs, or add increments?

    python -m benchmarks.withdrawal --model dynamax-mamba --model_args pretrained=tiny

A rejected draft leaves states that have advanced too far. Two ways back are timed, over all layers:

- replay, as ``mode=lossless`` does: the recorded inputs (x, B, dt and the convolution's) of the
  accepted tokens advance the state from before the draft;
- increments: every verification pass records what each token adds to the state, and a rejection
  sums those of the accepted tokens, each decayed, with the state from before the draft.

Replay is timed whole; of increments only the SSM state is, without the convolution's window. Both
ways start from the same recorded inputs, and must end in the same state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median
from time import thread_time
from typing import Any

import torch
from torch import Tensor

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.processor import processor_name
from dynamax_lm.core.catchup import RECOMPUTE
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.segment import run_segment
from dynamax_lm.harness.command_line import Command, add_lm_eval_options

_PROMPT = 16


class Increments:
    """The states of several layers before a draft, and what each of its tokens adds to them.

    Args:
        layers: Mamba-2 layers of one shape.
        states: of these, after the draft's one pass over B rows of T tokens each.

    Attributes:
        before: (L, B, H, P, S).
        decay: (L, B, T, H) logarithms of the decay at each token.
        added: (L, B, T, H, P, S).
    """

    def __init__(self, layers: Sequence[Any], states: Sequence[Any]) -> None:
        self.before = torch.stack([state.draft.ssm for state in states])
        parts = [self._of(*pair) for pair in zip(layers, states, strict=True)]
        self.decay, self.added = (torch.stack(some) for some in zip(*parts, strict=True))

    @staticmethod
    def _of(layer: Any, state: Any) -> tuple[Tensor, Tensor]:
        ((rows, inputs),) = state.draft.passes
        batch = len(set(rows))
        x, b, _ = layer.split(inputs.convolved.unflatten(0, (batch, -1)))
        steps = layer.space.steps(inputs.dt.unflatten(0, (batch, -1)))
        heads = b.repeat_interleave(x.shape[2] // b.shape[2], dim=2)
        added = (x * steps[..., None])[..., None] * heads[..., None, :]
        return steps * layer.space.decay, added

    def after(self, kept: int) -> Tensor:
        """(L, B, H, P, S) the states after the first ``kept`` tokens."""
        since = self.decay[:, :, :kept].cumsum(2)
        total = since[:, :, -1:]
        weights = (total - since).exp()
        sums = torch.einsum("lbth,lbthps->lbhps", weights, self.added[:, :, :kept])
        return torch.addcmul(sums, self.before, total[:, :, 0, :, None, None].exp())


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    start = thread_time()
    found = do()
    return 1000 * (thread_time() - start), found


def measure(stack: Any, batch: int, tokens: int, repeats: int) -> list[str]:
    """A row of the table: one of ``tokens`` drafted tokens of each of ``batch`` rows is rejected.

    Raises:
        AssertionError: the two ways end in different states.
    """
    rows = tuple(range(batch))
    size = stack.costs.vocabulary
    ids = torch.randint(0, size, (batch, _PROMPT + tokens)).tolist()
    prompts = prefill(stack, [tuple(row[:_PROMPT]) for row in ids])
    pending = [row[-tokens:] for row in ids]
    kept, given = dict.fromkeys(rows, tokens - 1), dict.fromkeys(rows, tokens)
    times: list[tuple[float, float, float]] = []
    for _ in range(repeats):
        state = stack.take(prompts, rows)
        stack.begin_draft(state, rows)
        token_batch = TokenBatch.of_pending(pending, rows, stack.device)
        run_segment(stack, state, token_batch, range(stack.n_layers), None, RECOMPUTE)
        record, increments = _timed(lambda own=state: Increments(stack.layers, own.layers))
        add, summed = _timed(lambda own=increments: own.after(tokens - 1))
        replay, _ = _timed(lambda own=state: stack.withdraw(own, kept, given))
        torch.testing.assert_close(summed, torch.stack([one.ssm for one in state.layers]))
        times.append((replay, record, add))
    parts = [median(some) for some in zip(*times, strict=True)]
    ((_, inputs),) = state.layers[0].draft.passes
    recorded = stack.n_layers * sum(part.nbytes for part in inputs)
    return [
        *(str(batch), str(tokens)),
        *(f"{part:.2f}" for part in parts),
        *(f"{size / 2**20:.2f}" for size in (recorded, increments.added.nbytes)),
    ]


def main() -> None:
    """Print a table, one row a batch size and draft length."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lm = Command(options).load(options.model_args)
    with torch.inference_mode():
        points = product(options.batches, options.drafts)
        rows = [measure(lm.stack, *point, options.repeats) for point in points]
    print(f"\n{processor_name()}, 1 thread; milliseconds of all layers, median\n")
    names = ["rows", "draft", "replay", "record increments", "sum them"]
    print(markdown_table([*names, "MiB of inputs", "MiB of increments"], rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_lm_eval_options(parser)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--drafts", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=31)
    parser.set_defaults(tasks="dynamax_coqa_sample", model="dynamax-mamba")
    return parser


if __name__ == "__main__":
    main()
