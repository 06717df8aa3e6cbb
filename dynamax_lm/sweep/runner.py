"""A runner that answers the same requests under several settings and computes shared parts once.

It wraps the engine's ``score`` and ``generate`` and gives equal results. Prompt states and
full-depth passes are kept for the next settings; with exact state, one full-depth pass determines
the exits of every threshold; else later thresholds run in the same batch as the present one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch

from dynamax_lm.common.identity import digest
from dynamax_lm.core.loop import run_chunk
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.engine.decode import decode
from dynamax_lm.engine.generate import GeneratedAnswer, answers, generate
from dynamax_lm.engine.head_session import HeadSession, TrainedHeads
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.reading import Reading
from dynamax_lm.engine.reference import Comparison, compare
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.score import ScoreBatch, ScoredAnswer, ScoreRequest
from dynamax_lm.engine.state_size import tensor_bytes
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.sweep.generation_replay import replay_generation
from dynamax_lm.sweep.origins import Origins
from dynamax_lm.sweep.reuse_cache import MOST_BYTES, ReuseCache
from dynamax_lm.sweep.threshold_batching import TOKENS_AT_ONCE, ThresholdBatcher
from dynamax_lm.sweep.threshold_replay import (
    ThresholdReplay,
    decisions_follow,
    replay_thresholds,
)


class ReuseRunner:
    """Runs requests of one loaded model repeatedly (``models.runner.Runner``).

    Args:
        most_bytes: size limit of prompt states and replayed hidden states; 0 keeps none.
        tokens_at_once: see ``ThresholdBatcher``; 0 runs each threshold on its own.
        derives: whether answers may be derived from a full-depth pass; if not, all are decoded or
            scored with exits.

    Attributes:
        cache: shared between runs.
        batcher: thresholds of later runs, and their answers.
        origins: how all answers were computed.
    """

    continuous: ClassVar[bool] = False

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
        """Later runs have the same requests under these thresholds, and differ in nothing else."""
        self.batcher.to_come = tuple(thresholds)

    def score(
        self,
        stack: StatefulStack,
        requests: Sequence[ScoreRequest],
        *,
        policy: ExitPolicy = FULL_DEPTH,
        skipped_state: str = "propagate",
        reference: bool = False,
        softmax_dtype: torch.dtype = torch.float32,
        heads: TrainedHeads | None = None,
        timer: PhaseTimer | None = None,
    ) -> list[ScoredAnswer]:
        """Equal to ``engine.score.score``."""
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
        batch_key: Hashable = None
        if policy.exit_layers:
            batch_key = (key, *policy.except_threshold, skipped_state, reference, heads)
        ready = self._ready(batch_key, policy.threshold)
        if ready is not None:
            return ready
        with timer.measure("prompt"):
            state = self.cache.prompt_state(
                stack, batch.prompts, batch.prompt_rows, policy.prompt_exit
            )
        full_pass = None
        if (reference or policy.needs_target) and policy.any_exits:
            with timer.measure("reference"):
                whole = state
                if policy.prompt_exit is not None:
                    whole = self.cache.prompt_state(stack, batch.prompts, batch.prompt_rows)
                full_pass = self._full_depth(stack, whole, batch, key)
        thresholds = self._together(batch_key, policy, batch.n_tokens, tensor_bytes(state))
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
                own = batch.by_definition(where, stack.n_layers, skipped_state, policy.prompt_exit)
            full = (full_pass or ours) if reference else None
            scored += batch.answers(ours, where, full, own, policy.prompt_exit)
        return self.batcher.keep(batch_key, thresholds, scored)

    def generate(
        self,
        stack: StatefulStack,
        requests: Sequence[GenerateRequest],
        *,
        policy: ExitPolicy = FULL_DEPTH,
        skipped_state: str = "propagate",
        reference: bool = False,
        heads: TrainedHeads | None = None,
        timer: PhaseTimer | None = None,
        draft_length: int | None = None,
        **continuous: Any,
    ) -> list[GeneratedAnswer]:
        """Equal to ``engine.generate.generate``; a lossless run is timed, and so not derived."""
        del continuous
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
        batch_key: Hashable = None
        if keyed and not follow:
            identity = digest(
                *(one.key for one in requests), policy.except_threshold, skipped_state
            )
            batch_key = (identity, reference, heads)
        ready = self._ready(batch_key, policy.threshold)
        if ready is not None:
            return ready
        with timer.measure("prompt"):
            prompts = [request.prompt for request in requests]
            each = range(len(prompts))
            state = self.cache.prompt_state(stack, prompts, each, policy.prompt_exit)
            thresholds = self._together(batch_key, policy, len(requests), tensor_bytes(state))
            if len(thresholds) > 1:
                state = stack.take(state, [*each] * len(thresholds))
        repeated = [*requests] * len(thresholds)
        rows = [Progress() for _ in repeated]
        compares, whole = reference and policy.any_exits, state
        if policy.prompt_exit is not None and (compares or policy.needs_target):
            with timer.measure("reference"):
                whole = self.cache.prompt_state(stack, prompts, [*each] * len(thresholds))
        mark = stack.mark(whole) if compares else None
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
                decode(
                    *(stack, state, repeated, rows, policy, skipped_state, session, own),
                    exact=whole,
                )
            self.origins.ran(len(requests), len(thresholds))
        compared: list[Comparison] | None = None
        if reference and mark is None:
            compared = [Comparison(row.tokens, None, row.tokens) for row in rows]
        elif mark is not None:
            with timer.measure("reference"):
                known = self.cache.full_depth
                compared = compare(
                    *(stack, whole, mark, repeated, rows, skipped_state, known),
                    prompt_exit=policy.prompt_exit,
                )
        found = answers(repeated, rows, compared, policy.prompt_exit)
        return self.batcher.keep(batch_key, thresholds, found)

    def _replay_scores(
        self,
        stack: StatefulStack,
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

    def _full_depth(self, stack: StatefulStack, state: Any, batch: ScoreBatch, key: str) -> Reading:
        full = self.cache.find_scores(key)
        if full is None:
            full = batch.full_depth(stack, state)
        self.cache.keep_scores(key, full)
        return full

    def _together(
        self, batch_key: Hashable, policy: ExitPolicy, tokens: int, size: int
    ) -> tuple[float, ...]:
        """Thresholds to run now: the policy's, and those of later runs of equal ``batch_key``."""
        if batch_key is None or policy.rule is not None:  # other rules run one by one
            return (policy.threshold,)
        return self.batcher.together(policy.threshold, tokens, size)

    def _ready(self, batch_key: Hashable, threshold: float) -> list[Any] | None:
        """Answers that an earlier run computed in the same batch as its own."""
        ready = None if batch_key is None else self.batcher.take(batch_key, threshold)
        if ready is not None:
            self.origins.rows += len(ready)
        return ready
