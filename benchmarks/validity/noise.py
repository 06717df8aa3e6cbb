"""How often rounding alone makes the reference's parallel pass differ from single steps.

Random models that have the proportions of the two 7B checkpoints generate without an exit
(threshold 1), and score what they generated. Agreement by the pass alone is what a run would print
if the pass determined every token; agreement by definition is what is printed. Prints Markdown:

    python -m benchmarks.validity.noise

The two most likely tokens of a random model are closer than a trained one's; the rates show that
the effect exists and how it depends on the number type, not how large it is on a checkpoint.
``--tiny`` runs the embedded, trained models on the package's sample tasks instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Mamba2Config, Mamba2ForCausalLM, MistralConfig, MistralForCausalLM

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.trace import AnswerTrace
from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.mamba2 import Mamba2Stack
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score

DTYPES = ("float32", "bfloat16")
TASKS = ("dynamax_coqa_sample", "dynamax_truthfulqa_mc1_sample")


@dataclass(frozen=True, slots=True)
class Size:
    """A narrow model of a 7B checkpoint's proportions.

    Attributes:
        width: D; a multiple of 128.
        layers: L.
        vocabulary: V.
    """

    width: int = 512
    layers: int = 16
    vocabulary: int = 32768


@dataclass(frozen=True, slots=True)
class Likenesses:
    """Agreement and consistency over answers, by the pass alone and by definition.

    Attributes:
        tokens: how many.
        answers: how many.
        before: agreement and consistency if the parallel pass decided everywhere.
        after: as they are reported.
        noise: share of full depth's own tokens on which the pass differs.
    """

    tokens: int
    answers: int
    before: tuple[float, float]
    after: tuple[float, float]
    noise: float

    @classmethod
    def of(cls, traces: Sequence[AnswerTrace], same: Sequence[bool]) -> Likenesses:
        """From traces with a reference, and whether each answer is full depth's own."""
        passes = [_by_the_pass(trace) for trace in traces]
        tokens = sum(map(len, traces))
        hits = [
            sum(a == b for a, b in zip(trace.emitted, other, strict=True))
            for trace, other in zip(traces, passes, strict=True)
        ]
        whole = [hit == len(trace) for hit, trace in zip(hits, traces, strict=True)]
        noise = [trace.noise for trace in traces]
        compared = sum(one.compared for one in noise)
        return cls(
            tokens,
            len(traces),
            (sum(hits) / tokens, sum(whole) / len(whole)),
            (sum(trace.agreeing or 0 for trace in traces) / tokens, sum(same) / len(same)),
            sum(one.differing for one in noise) / compared if compared else 0.0,
        )

    def cells(self) -> list[str]:
        """Of a table's row."""
        shares = (*self.before, *self.after)
        return [
            str(self.tokens),
            str(self.answers),
            *(f"{100 * share:.1f} %" for share in shares),
            f"{100 * self.noise:.2f} %",
        ]


HEAD = (
    "tokens",
    "answers",
    "agreement, before",
    "consistency, before",
    "agreement",
    "consistency",
    "noise",
)


def random_stack(kind: str, size: Size, dtype: torch.dtype, seed: int = 0) -> Any:
    """A random model with transformers' own initialisation."""
    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "num_hidden_layers": size.layers,
        "hidden_size": size.width,
        "tie_word_embeddings": False,
    }
    if kind == "mistral":
        config = MistralConfig(
            **shared,
            intermediate_size=7 * size.width // 2,
            num_attention_heads=size.width // 64,
            num_key_value_heads=max(1, size.width // 256),
            head_dim=64,
            sliding_window=None,
        )
        return MistralStack(MistralForCausalLM(config).eval().to(dtype))
    mamba = Mamba2Config(
        **shared,
        num_heads=size.width // 32,
        head_dim=64,
        expand=2,
        state_size=128,
        n_groups=min(8, size.width // 32),
        chunk_size=256,
    )
    return Mamba2Stack(Mamba2ForCausalLM(mamba).eval().to(dtype))


def whole_runs(
    stack: Any, *, rows: int, prompt: int, new: int, threshold: float = 1.0, seed: int = 0
) -> tuple[Likenesses, Likenesses]:
    """Generate and score with exits at a quarter, half and three quarters of the depth.

    Args:
        stack: the decoder.
        rows: of one batch.
        prompt: tokens of each prompt, random.
        new: tokens of each answer.
        threshold: of ``top_prob``; with 1 no token exits.
        seed: of the prompts.
    """
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, stack.vocab_size, (rows, prompt), generator=drawn).tolist()
    layers = stack.n_layers
    exits = tuple(sorted({max(1, layers * part // 4) for part in (1, 2, 3)}))
    policy = ExitPolicy(exits, "top_prob", threshold)
    asked = [GenerateRequest(tuple(row), new, lambda _: False) for row in ids]
    with torch.inference_mode():
        answers = generate(stack, asked, policy=policy, reference=True)
        again = [
            ScoreRequest(one.prompt, answer.trace.tokens)
            for one, answer in zip(asked, answers, strict=True)
        ]
        scores = score(stack, again, policy=policy, reference=True)
    return (
        Likenesses.of([a.trace for a in answers], [a.reference == a.trace.tokens for a in answers]),
        Likenesses.of([s.trace for s in scores], [_same_score(s.score, s) for s in scores]),
    )


def tiny_runs(dtypes: Sequence[str], limit: int, threshold: float) -> Iterable[list[str]]:
    """Rows of the embedded models on the package's sample tasks, through lm-eval."""
    import lm_eval

    for model in ("dynamax-mistral", "dynamax-mamba"):
        for dtype in dtypes:
            results = lm_eval.simple_evaluate(
                model=model,
                model_args={
                    "pretrained": "tiny",
                    "dtype": dtype,
                    "heads": "none",
                    "confidence": "top_prob",
                    "threshold": threshold,
                },
                tasks=list(TASKS),
                limit=limit,
                batch_size=8,
                bootstrap_iters=0,
            )
            for task, samples in results["samples"].items():
                first = [one for one in samples if one["filter"] == samples[0]["filter"]]
                records = [a.record for s in first for r in s["resps"] for a in r]
                traces = [trace for record in records for trace in record.traces]
                same = [bool(one["consistency"]) for one in first]
                yield [model, dtype, task, *Likenesses.of(traces, same).cells()]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="How often rounding alone parts two passes.")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--width", type=int, default=Size.width)
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--vocabulary", type=int, default=Size.vocabulary)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--threshold", type=float, default=1.0)
    parser.add_argument("--tiny", action="store_true", help="the embedded models instead")
    parser.add_argument("--limit", type=int, default=20, help="documents a task, for --tiny")
    given = parser.parse_args(arguments)
    if given.tiny:
        rows = list(tiny_runs(given.dtype, given.limit, given.threshold))
        print(markdown_table(["model", "dtype", "task", *HEAD], rows))
        return
    size = Size(given.width, given.layers, given.vocabulary)
    rows = []
    for kind in ("mistral", "mamba2"):
        for dtype in given.dtype:
            stack = random_stack(kind, size, getattr(torch, dtype))
            options = {"rows": given.rows, "prompt": given.prompt, "new": given.new}
            for door, found in zip(
                ("generated", "scored"),
                whole_runs(stack, threshold=given.threshold, **options),
                strict=True,
            ):
                rows.append([kind, dtype, door, *found.cells()])
    print(markdown_table(["model", "dtype", "answers are", *HEAD], rows))


def _by_the_pass(trace: AnswerTrace) -> list[int | None]:
    """What the pass emits at every token."""
    return [
        row.full_depth if row.reference_pass is None else row.reference_pass for row in trace.rows()
    ]


def _same_score(ours: tuple[float, bool], answer: Any) -> bool:
    full = answer.full_depth_score
    return full is not None and ours[1] == full[1]


if __name__ == "__main__":
    main()
