"""Answers the same requests under several settings, and computes only once what they share.

Owns when something is reused: it wraps core's ``score`` and ``generate``, which know nothing of it,
and gives what they would give. Prompt states and full depth's passes are kept for the next
settings; with exact state, exits follow from one full-depth pass; else thresholds to come run
beside the present one. It does not know settings, documents or lm-eval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from dynamax_lm.common.identity import digest
from dynamax_lm.core.decode import GenerateRequest, Progress, decode
from dynamax_lm.core.generate import GeneratedAnswer, answers, generate
from dynamax_lm.core.head_session import HeadSession, TrainedHeads
from dynamax_lm.core.loop import run_chunk
from dynamax_lm.core.phase_timer import PhaseTimer
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.reading import Reading
from dynamax_lm.core.reference import Comparison, compare
from dynamax_lm.core.score import ScoreBatch, ScoredAnswer, ScoreRequest
from dynamax_lm.core.stack import LayerStack
from dynamax_lm.sweep.generation_replay import replay_generation
from dynamax_lm.sweep.origins import Origins
from dynamax_lm.sweep.reuse_cache import MOST_BYTES, ReuseCache, tensor_bytes
from dynamax_lm.sweep.threshold_batching import TOKENS_AT_ONCE, ThresholdBatcher
from dynamax_lm.sweep.threshold_replay import (
    ThresholdReplay,
    decisions_follow,
    replay_thresholds,
)


class ReuseRunner:
    """Runs requests of one loaded model again and again (``models.runner.Runner``).

    Args:
        most_bytes: of prompt states and replayed hidden states; 0 keeps none.
        tokens_at_once: see ``ThresholdBatcher``; 0 runs each threshold by itself.
        derives: whether decisions may follow from a full-depth pass; if not, every run is really
            run.

    Attributes:
        cache: what is kept.
        batcher: what is run for later runs at the same time.
        origins: how all answers came about.
    """

    def __init__(
        self,
        most_bytes: int = MOST_BYTES,
        tokens_at_once: int = TOKENS_AT_ONCE,
        *,
        derives: bool = True,
    ) -> None:
        self._derives = derives
        self.cache = ReuseCache(most_bytes)
        self.batcher = ThresholdBatcher(tokens_at_once, most_bytes)
        self.origins = Origins()

    def expect(self, thresholds: Sequence[float]) -> None:
        """The runs to come ask the same requests under these thresholds, and differ in no other."""
        self.batcher.to_come = tuple(thresholds)

    def score(
        self,
        stack: LayerStack,
        requests: Sequence[ScoreRequest],
        *,
        policy: ExitPolicy = FULL_DEPTH,
        skipped_state: str = "propagate",
        reference: bool = False,
        softmax_dtype: torch.dtype = torch.float32,
        heads: TrainedHeads | None = None,
        timer: PhaseTimer | None = None,
    ) -> list[ScoredAnswer]:
        """What ``core.score.score`` gives."""
        timer = timer or PhaseTimer()
        batch = ScoreBatch(requests, softmax_dtype)
        key = digest(requests, softmax_dtype)
        if self._derives and decisions_follow(policy, skipped_state):
            replay = self.cache.replay(
                (key, policy.exit_layers, policy.confidence, heads),
                lambda: self._replay_scores(stack, batch, policy, heads, timer),
            )
            if replay is not None:
                self.origins.derived += len(requests)
                self.cache.keep_scores(key, replay.full_depth)
                with timer.measure("answer"):
                    ours, depths = replay.decide(policy, heads)
                full = replay.full_depth if reference else None
                return batch.answers(ours, depths, full, None)
        question: Hashable = None
        if policy.exit_layers:
            question = (key, *policy.except_threshold, skipped_state, reference, heads)
        ready = self._ready(question, policy.threshold)
        if ready is not None:
            return ready
        with timer.measure("prompt"):
            state = self.cache.prompt_state(stack, batch.prompts, batch.prompt_rows)
        full_pass = None
        if (reference or policy.needs_target) and policy.exit_layers:
            with timer.measure("reference"):
                full_pass = self._full_depth(stack, state, batch, key)
        thresholds = self._together(question, policy, batch.n_tokens, tensor_bytes(state))
        count, rows = len(thresholds), len(batch.prompt_rows)
        self.origins.ran(len(requests), count)
        cutoffs = policy.cutoffs_at(batch.steps())
        if cutoffs is None:
            cutoffs = policy.cutoffs(thresholds).repeat_interleave(batch.n_tokens)
        reader = batch.reader(stack, count)
        with timer.measure("answer"):
            if count > 1:
                state = stack.take(state, [*range(rows)] * count)
            depths = run_chunk(
                stack,
                state,
                batch.chunk(stack).repeat(count),
                reader,
                policy=policy,
                cutoffs=cutoffs.to(stack.device),
                skipped_state=skipped_state,
                targets=None
                if full_pass is None
                else full_pass.emitted.repeat(count).to(stack.device),
                session=HeadSession.of(heads, rows * count),
            )
        scored: list[ScoredAnswer] = []
        for ours, where in zip(reader.read().split(count), depths.split(count), strict=True):
            own = None
            if reference and full_pass is not None:
                own = batch.by_definition(where, stack.n_layers, skipped_state)
            scored += batch.answers(ours, where, (full_pass or ours) if reference else None, own)
        return self.batcher.keep(question, thresholds, scored)

    def generate(
        self,
        stack: LayerStack,
        requests: Sequence[GenerateRequest],
        *,
        policy: ExitPolicy = FULL_DEPTH,
        skipped_state: str = "propagate",
        reference: bool = False,
        heads: TrainedHeads | None = None,
        timer: PhaseTimer | None = None,
        draft_length: int | None = None,
    ) -> list[GeneratedAnswer]:
        """What ``core.generate.generate`` gives; a lossless run is timed, and so really run."""
        timer = timer or PhaseTimer()
        if draft_length is not None:
            self.origins.ran(len(requests), 1)
            return generate(
                stack,
                requests,
                policy=policy,
                reference=reference,
                heads=heads,
                timer=timer,
                draft_length=draft_length,
            )
        keyed = bool(policy.exit_layers) and all(one.key for one in requests)
        follow = keyed and self._derives and decisions_follow(policy, skipped_state)
        question: Hashable = None
        if keyed and not follow:
            asked_for = digest(
                *(one.key for one in requests), policy.except_threshold, skipped_state
            )
            question = (asked_for, reference, heads)
        ready = self._ready(question, policy.threshold)
        if ready is not None:
            return ready
        with timer.measure("prompt"):
            prompts = [request.prompt for request in requests]
            state = self.cache.prompt_state(stack, prompts, range(len(prompts)))
            thresholds = self._together(question, policy, len(requests), tensor_bytes(state))
            if len(thresholds) > 1:
                state = stack.take(state, [*range(len(requests))] * len(thresholds))
        asked = [*requests] * len(thresholds)
        rows = [Progress() for _ in asked]
        mark = stack.mark(state) if reference and policy.exit_layers else None
        replayed = follow and replay_generation(
            stack,
            state,
            requests,
            rows,
            policy=policy,
            heads=heads,
            timer=timer,
            cache=self.cache,
            origins=self.origins,
        )
        if not replayed:
            with timer.measure("answer"):
                own = None
                if policy.rule is None:
                    own = [threshold for threshold in thresholds for _ in requests]
                session = HeadSession.of(heads, len(rows))
                decode(stack, state, asked, rows, policy, skipped_state, session, own)
            self.origins.ran(len(requests), len(thresholds))
        compared: list[Comparison] | None = None
        if reference and mark is None:
            compared = [Comparison(row.tokens, None, row.tokens) for row in rows]
        elif mark is not None:
            with timer.measure("reference"):
                known = self.cache.full_depth
                compared = compare(stack, state, mark, asked, rows, skipped_state, known)
        return self.batcher.keep(question, thresholds, answers(asked, rows, compared))

    def _replay_scores(
        self,
        stack: LayerStack,
        batch: ScoreBatch,
        policy: ExitPolicy,
        heads: TrainedHeads | None,
        timer: PhaseTimer,
    ) -> ThresholdReplay:
        with timer.measure("prompt"):
            state = self.cache.prompt_state(stack, batch.prompts, batch.prompt_rows)
        with timer.measure("answer"):
            readers = [batch.reader(stack) for _ in range(len(policy.exit_layers) + 1)]
            chunk = batch.chunk(stack)
            return replay_thresholds(stack, state, chunk, readers, policy=policy, heads=heads)

    def _full_depth(self, stack: LayerStack, state: Any, batch: ScoreBatch, key: str) -> Reading:
        full = self.cache.find_scores(key)
        if full is None:
            full = batch.full_depth(stack, state)
        self.cache.keep_scores(key, full)
        return full

    def _together(
        self, question: Hashable, policy: ExitPolicy, tokens: int, size: int
    ) -> tuple[float, ...]:
        """Thresholds to run now: the policy's, and those to come that ask the same question."""
        if question is None or policy.rule is not None:  # other rules run one by one
            return (policy.threshold,)
        return self.batcher.together(policy.threshold, tokens, size)

    def _ready(self, question: Hashable, threshold: float) -> list[Any] | None:
        """Answers that an earlier run gave beside its own."""
        ready = None if question is None else self.batcher.take(question, threshold)
        if ready is not None:
            self.origins.rows += len(ready)
        return ready
