"""Answers to lm-eval's three request types, in batches, each response with its record.

This module has batching, billing and the progress bars. Settings, weights and heads are the model's
(``models.exit_model``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.trace import ExitRecord, FlopsBreakdown
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import GeneratedAnswer
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest
from dynamax_lm.engine.sources import ComputedInOrder
from dynamax_lm.harness.hf_model import HfModel, Scored
from dynamax_lm.harness.responses import TracedScore, TracedText, TracedTotal
from dynamax_lm.heads import ExitHeads
from dynamax_lm.models.expected_time import generation_seconds, scoring_seconds
from dynamax_lm.models.memory import state_bytes
from dynamax_lm.models.order import header_keys
from dynamax_lm.models.requests import (
    TextRequest,
    TextRequests,
    answer_text,
    answer_text_tokens,
    fit_score,
    rolling_windows,
    row_seeds,
)
from dynamax_lm.models.runner import Runner
from dynamax_lm.models.speed_check import SpeedCheck
from dynamax_lm.settings import ExitSettings

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings
_CPU_BATCH = 8
"""Rows of a batch under ``batch_size=auto`` on a CPU, where more rows gain little."""
_DRAFT = 4
"""Tokens of a row in a verification pass, as a rule."""
_DOING = {"exit": "with early exits", "full": "at full depth", "lossless": "losslessly"}
"""What progress bars say of each mode."""
_Item = TypeVar("_Item")
OnExpected = Callable[[str, float], None]
"""Called before requests are answered: what begins, and the seconds that it takes at most."""


class Answering(HfModel):
    """The ``hf`` model whose requests are answered by a decoder with exits.

    Attributes:
        rows_in_flight: the largest number of rows that were generated at a time.
        settings: in force.
        timer: seconds of each phase of this evaluation.
        speed: of lossless decoding against full depth.
        fingerprint: of the checkpoint and the settings, written into every record.
    """

    rows_in_flight: int = 0
    settings: ExitSettings
    timer: PhaseTimer
    speed: SpeedCheck
    fingerprint: str
    _stack: Decoder
    _heads: ExitHeads | None
    _policy: ExitPolicy
    _ledger: Ledger
    _runner: Runner
    _doing: str = ""
    _on_expected: OnExpected | None = None

    def begin_evaluation(self) -> None:
        """Start counting seconds and rows anew: they are those of one evaluation."""
        self.timer, self.speed, self.rows_in_flight = PhaseTimer(), SpeedCheck(), 0

    def _rows_at_once(self) -> int:
        """The rows that products are chosen for; on a GPU there is no choice."""
        size = self.batch_size
        rows = self._rows_on_a_cpu() if size == "auto" else int(size)
        return rows * (_DRAFT if self._lossless else 1)

    def _size_of_batch(self) -> int:
        if self.batch_size != "auto":
            return int(self.batch_size)
        return self._rows_on_a_cpu() if self.device.type == "cpu" else self.probed_batch_size()

    def _rows_on_a_cpu(self) -> int:
        """A fixed size, as probing with full contexts takes minutes on a CPU."""
        return min(_CPU_BATCH, int(self.max_batch_size))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score continuations; lm-eval's refusal of thinking models is one line here.

        Raises:
            SettingError: ``enable_thinking`` is set, and continuations follow no thoughts.
        """
        if self.enable_thinking:
            tasks = ", ".join(sorted({one.task_name for one in requests if one.task_name}))
            raise SettingError(
                f"enable_thinking=True: {tasks or 'a task'} scores given continuations, which "
                "follow no thoughts; choose tasks that generate, or leave enable_thinking out"
            )
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return scores

    def score_tokens(self, requests: list[Scored], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """Score (key, context ids, continuation ids), each as a response with its record."""
        fitted = {
            number: fit_score(context, tokens, self.max_length)
            for number, (_, context, tokens) in enumerate(requests)
            if tokens
        }
        scored = self._score(list(fitted.values()), disable_tqdm)
        answers = dict(zip(fitted, scored, strict=True))
        results: list[tuple[float, bool]] = []
        for number, (key, _, _) in enumerate(requests):
            if number in answers:
                answer = answers[number]
                result = TracedScore(answer.score, self._record([answer], answer.full_depth_score))
            else:  # no token of its own: nothing to predict, which is certain
                certain = (0.0, True)
                record = self._record([], certain if self.settings.reference else None)
                result = TracedScore(certain, record)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
            results.append(result)
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, window by window."""
        windows = [rolling_windows(self, request.args[0]) for request in requests]
        answers = iter(self._score([one for some in windows for one in some], disable_tqdm))
        totals: list[float] = []
        for request, some in zip(requests, windows, strict=True):
            parts = [next(answers) for _ in some]
            full = [part.full_depth_score for part in parts]
            known = [pair[0] for pair in full if pair is not None]
            reference = sum(known) if len(known) == len(parts) else None
            total = TracedTotal(
                sum(part.score[0] for part in parts), self._record(parts, reference)
            )
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            totals.append(total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate every request's text, each as a response with its record."""
        seeds = row_seeds(requests, torch.initial_seed())
        resolver = TextRequests(self)
        ready = [
            resolver.resolve(request.args[0], request.args[1], seed)
            for request, seed in zip(requests, seeds, strict=True)
        ]
        prompts, size = [one.request.prompt for one in ready], self._size_of_batch()
        keys = header_keys(prompts, [len(one) for one in prompts], size)
        order = sorted(range(len(ready)), key=lambda n: (keys[n], -len(prompts[n]), prompts[n]))
        texts: dict[int, TracedText] = {}
        self._expect("Generating", [ready[n].request for n in order], generation_seconds)
        with self._progress(len(requests), "Generating", disable_tqdm) as bar, self._context():

            def finish(answers: Mapping[int, GeneratedAnswer], start: int = 0) -> None:
                for place, answer in answers.items():
                    number = order[start + place]
                    texts[number] = self._text(ready[number], answer)
                    args = requests[number].args
                    self.cache_hook.add_partial("generate_until", args, texts[number])
                bar.update(len(answers))

            ordered = [ready[number].request for number in order]
            while (done := len(texts)) < len(ordered):
                timed = self._lossless and self.speed.wanted
                if timed or not self._runner.continuous:
                    some = ordered[done : done + size]
                    finish(dict(enumerate(self._generate(some))), done)
                    continue
                rows, free = self.settings.rows_in_flight, state_bytes(self.device)
                flight = Flight(size, rows, free)
                on_answers = partial(finish, start=done)
                self._generate(ordered[done:], flight=flight, on_answers=on_answers)
                self.rows_in_flight = max(self.rows_in_flight, flight.used)
        return [texts[number] for number in range(len(requests))]

    def _generate(
        self, requests: list[GenerateRequest], **continuous: Any
    ) -> list[GeneratedAnswer]:
        before = self.timer.answer
        answers = self._runner.generate(
            self._stack,
            requests,
            policy=self._policy,
            skipped_state=self.settings.skipped_state,
            reference=self.settings.reference,
            heads=self._heads,
            timer=self.timer,
            draft_length=self.settings.draft_length,
            **continuous,
        )
        if self._lossless and self.speed.wanted:
            took = self.timer.answer - before
            answers = self.speed.check(self._stack, requests, answers, took)
        return answers

    def _text(self, one: TextRequest, answer: GeneratedAnswer) -> TracedText:
        """A generated answer as the response that lm-eval gets."""
        tokens = answer.trace.tokens
        kept = answer_text_tokens(self, tokens, one.until)
        trace = replace(answer.trace, text_tokens=kept)
        reference = None
        if answer.reference is not None:
            reference = answer_text(self, answer.reference, one.until)
        record = ExitRecord(
            self.fingerprint,
            (trace,),
            self._ledger.bill(trace),
            reference,
            self._ledger.bill(trace.text),
            (answer.attached,),
        )
        return TracedText(answer_text(self, tokens, one.until), record)

    @property
    def _lossless(self) -> bool:
        return self.settings.draft_length is not None

    def _score(self, requests: list[ScoreRequest], disable_tqdm: bool) -> list[ScoredAnswer]:
        """Score in batches: of one header together, of one prompt adjacent, else longest first."""
        longest: dict[tuple[int, ...], int] = {}
        for one in requests:
            whole = len(one.prompt) + len(one.continuation)
            longest[one.prompt] = max(whole, longest.get(one.prompt, 0))
        prompts, size = [one.prompt for one in requests], self._size_of_batch()
        keys = header_keys(prompts, [longest[one] for one in prompts], size)
        order = sorted(
            range(len(requests)),
            key=lambda n: (
                keys[n],
                -longest[requests[n].prompt],
                requests[n].prompt,
                -len(requests[n].continuation),
                requests[n].continuation,
            ),
        )
        if self._lossless:
            _log.info("mode=lossless: log-likelihoods are computed at full depth")
        answers: dict[int, ScoredAnswer] = {}
        sources = ComputedInOrder()
        self._expect("Scoring", [requests[number] for number in order], scoring_seconds)
        with self._progress(len(requests), "Scoring", disable_tqdm) as bar, self._context():
            for start in range(0, len(order), size):
                numbers = order[start : start + size]
                scored = self._runner.score(
                    self._stack,
                    [requests[number] for number in numbers],
                    policy=FULL_DEPTH if self._lossless else self._policy,
                    skipped_state=self.settings.skipped_state,
                    reference=self.settings.reference,
                    heads=self._heads,
                    softmax_dtype=self.softmax_dtype or torch.float32,
                    timer=self.timer,
                    sources=sources,
                )
                answers.update(zip(numbers, scored, strict=True))
                bar.update(len(numbers))
        return [answers[number] for number in range(len(requests))]

    def _record(self, answers: Sequence[ScoredAnswer], reference: Any) -> ExitRecord:
        traces = tuple(answer.trace for answer in answers)
        return ExitRecord(
            self.fingerprint,
            traces,
            sum(map(self._ledger.bill, traces), FlopsBreakdown()),
            reference,
            attached=tuple(answer.attached for answer in answers),
        )

    def _expect(self, what: str, requests: list[_Item], seconds: Callable[..., float]) -> None:
        """Tell a tool that asks for it how many seconds ``requests`` will take at most."""
        if self._on_expected is None or not requests or self.rank != 0:
            return
        with self._context():
            expected = seconds(
                self._stack,
                requests,
                self._size_of_batch(),
                policy=FULL_DEPTH if self._lossless else self._policy,
                skipped_state=self.settings.skipped_state,
                reference=self.settings.reference,
                heads=self._heads,
            )
        self._on_expected(f"{what} for {len(requests)} requests", expected)

    def _progress(self, total: int, what: str, disable: bool) -> Any:
        words = self._doing or _DOING[self.settings.mode]
        if self._lossless and what == "Scoring":
            words = _DOING["full"]
        return tqdm(total=total, desc=f"{what} {words}", disable=disable or self.rank != 0)

    @contextmanager
    def _context(self) -> Iterator[None]:
        """No gradients, and mixed precision if configured."""
        dtype = self.mixed_precision_dtype
        autocast = torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)
        with torch.inference_mode(), autocast:
            yield
