"""A language model that makes its answers and records up, consistently, from the request's hash."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from dynamax_lm.core.trace import AnswerTrace, ExitRecord, FlopsBreakdown, Reference
from dynamax_lm.harness.install import announce
from dynamax_lm.harness.responses import TracedScore, TracedText, TracedTotal
from dynamax_lm.harness.results_config import early_exit_block
from dynamax_lm.harness.run_registry import LiveModel

LAYERS = 16


@register_model("toy-exits")
class ToyExits(LM):
    """Announces itself and returns responses with records."""

    noise = 0.0

    def __init__(
        self,
        threshold: float = 0.9,
        likeness: float = 0.8,
        reference: bool = True,
        trace_dir: str | None = None,
        noise: float = 0.0,
        **_: Any,
    ) -> None:
        """Makes a model up.

        Args:
            threshold: part of the fingerprint and of every depth.
            likeness: chance that an emitted token is full depth's.
            reference: whether responses carry a full-depth reference.
            trace_dir: folder of trace files.
            noise: chance that the reference's pass differs on a token that ran every layer.
        """
        super().__init__()
        self._rank = int(os.environ.get("RANK", "0"))
        self._world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self._device = "cpu"
        self.threshold, self.likeness, self.reference = threshold, likeness, reference
        self.noise = noise
        self.asked: Counter[str] = Counter()
        self.answered = 0
        folder = Path(trace_dir) if trace_dir else None
        settings = {"threshold": threshold, "likeness": likeness, "reference": reference}
        self.fingerprint = hashlib.sha256(str(settings).encode()).hexdigest()
        self.early_exit_run = announce(self, LiveModel(self.fingerprint, settings, LAYERS, folder))

    def get_model_info(self) -> dict[str, Any]:
        return {"early_exit": early_exit_block(self)}

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        return [self._generated(*request.args) for request in requests]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        return [self._scored(*request.args) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        return [self._rolled(*request.args) for request in requests]

    def _generated(self, context: str, settings: dict[str, Any]) -> Any:
        # Sampled repeats differ; all else is a function of the request, as caches expect.
        repeat = self.asked[context] = self.asked[context] + bool(settings.get("do_sample"))
        rng = self._draw("generate", context, str(settings), str(repeat))
        trace = self._trace(rng, rng.randint(1, 6))
        traces = (replace(trace, text_tokens=rng.randint(1, len(trace))),)
        if context.startswith("Say: "):
            return self._repeated(context.removeprefix("Say: ").split(), traces, rng)
        right = str(sum(map(int, re.findall(r"\d+", context))))
        like = traces[0].agreeing == len(traces[0])
        full = f"  {right}" if rng.random() < 0.7 else " 0"
        text = full if like else f" {right}" if rng.random() < 0.4 else " 1"
        return self._answer(TracedText, text, traces, full, rng)

    def _repeated(
        self, words: list[str], traces: tuple[AnswerTrace, ...], rng: random.Random
    ) -> Any:
        """A sentence said again: full depth forgets few words, the exits more."""
        full = [word for word in words if rng.random() < 0.9]
        heard = [word for word in full if rng.random() < 0.8]
        return self._answer(TracedText, " ".join(heard), traces, " ".join(full), rng)

    def _scored(self, context: str, continuation: str) -> Any:
        rng = self._draw("score", context, continuation)
        pair = (-10 * rng.random(), rng.random() < 0.5)
        full = (pair[0] - 2 * rng.random(), pair[1] or rng.random() < 0.2)
        return self._answer(TracedScore, pair, (self._trace(rng, len(continuation)),), full, rng)

    def _rolled(self, text: str) -> Any:
        rng = self._draw("roll", text)
        total = -float(len(text)) * rng.random()
        traces = (self._trace(rng, 5), self._trace(rng, len(text) // 4))
        return self._answer(TracedTotal, total, traces, total + 1.0, rng)

    def _draw(self, *request: str) -> random.Random:
        """Random numbers of a request, the same in every process and batch."""
        self.answered += 1
        return random.Random(f"{request}{self.threshold}{self.likeness}")

    def _trace(self, rng: random.Random, length: int) -> AnswerTrace:
        tokens = tuple(rng.randrange(1000) for _ in range(length))
        full = tuple(t if rng.random() < self.likeness else t + 1 for t in tokens)
        trace = AnswerTrace(
            prompt_tokens=rng.randint(3, 9),
            tokens=tokens,
            emitted=tokens,
            layers_used=tuple(rng.choice((4, 8, LAYERS)) for _ in tokens),
            confidence=tuple(rng.choice((None, rng.random())) for _ in tokens),
            full_depth=full if self.reference else None,
        )
        return replace(trace, reference_pass=self._again(trace)) if self.noise else trace

    def _again(self, trace: AnswerTrace) -> tuple[int | None, ...]:
        rng = random.Random(f"{trace}")
        return tuple(
            full + (rng.random() < self.noise) if used == LAYERS else None
            for full, used in zip(trace.full_depth or (), trace.layers_used, strict=True)
        )

    def _answer(
        self,
        kind: Any,
        value: Any,
        traces: tuple[AnswerTrace, ...],
        full: Reference,
        rng: random.Random,
    ) -> Any:
        check = rng.randint(50, 150)
        reference = full if self.reference else None
        bills = _bill(traces, check), _bill([trace.text for trace in traces], check)
        record = ExitRecord(self.fingerprint, traces, bills[0], reference, bills[1])
        return kind(value, record)

    def all_gather(self, tensor: Any) -> Any:
        import torch

        if self.world_size == 1:
            return tensor
        parts = [torch.zeros_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        import torch

        if self.world_size == 1:
            return [obj]
        received: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, received, dst=dst)
        return received

    def barrier(self) -> None:
        import torch

        if self.world_size > 1:
            torch.distributed.barrier()


def _bill(traces: Sequence[AnswerTrace], check: int) -> FlopsBreakdown:
    depth = sum(layers for trace in traces for layers in trace.layers_used)
    tokens = sum(map(len, traces))
    return FlopsBreakdown(
        prompt=100 * LAYERS * sum(trace.prompt_tokens for trace in traces),
        layers=100 * depth,
        checks=check * tokens,
        projection=10 * tokens,
        propagation=20 * (LAYERS * tokens - depth),
        full_depth=(100 * LAYERS + 10) * tokens,
    )


@register_model("toy-plain")
class ToyPlain(LM):
    """Another model: the same answers, no records, no announcement."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self._inner = ToyExits.__new__(ToyExits)
        self._inner.threshold, self._inner.likeness, self._inner.reference = 0.9, 0.8, True
        self._inner.asked, self._inner.answered, self._inner.fingerprint = Counter(), 0, ""

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return [str(answer) for answer in self._inner.generate_until(requests)]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return [(answer[0], answer[1]) for answer in self._inner.loglikelihood(requests)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return [float(answer) for answer in self._inner.loglikelihood_rolling(requests)]
