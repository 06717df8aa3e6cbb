"""A runner that answers the same requests under several settings and computes shared parts once.

It passes its cache to the engine's ``score`` and ``generate`` and gives equal results. Prompt
states and full-depth passes are kept for the next settings; with exact state, one full-depth pass
determines the exits of every threshold; else later thresholds run in the same batch as the present
one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import torch

from dynamax_lm.common.identity import digest
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.head_session import TrainedHeads
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.reading import Reading
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.score import ScoreBatch, ScoredAnswer, ScoreRequest, score
from dynamax_lm.engine.sources import Computed, FullDepthAnswers
from dynamax_lm.engine.state_size import tensor_bytes
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.reuse.generation_replay import replay_generation
from dynamax_lm.reuse.origins import Origins
from dynamax_lm.reuse.reuse_cache import MOST_BYTES, ReuseCache
from dynamax_lm.reuse.threshold_batching import TOKENS_AT_ONCE, ThresholdBatcher
from dynamax_lm.reuse.threshold_replay import (
    ThresholdReplay,
    decisions_follow,
    replay_thresholds,
)


class ReuseRunner:
    """Answers requests of one loaded model repeatedly (``models.runner.Runner``).

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
        sources: Computed | None = None,
    ) -> list[ScoredAnswer]:
        """Equal to ``engine.score.score``; ``sources`` compute what is not kept."""
        timer = timer or PhaseTimer()
        key = digest(requests, softmax_dtype)
        if self._derives and decisions_follow(policy, skipped_state):
            batch = ScoreBatch(requests, softmax_dtype)
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
        call = _Call(self.cache, self.batcher, batch_key, score_key=key, computed=sources)
        ready = self._ready(call, policy)
        if ready is not None:
            return ready
        found = score(
            stack,
            requests,
            policy=policy,
            skipped_state=skipped_state,
            reference=reference,
            softmax_dtype=softmax_dtype,
            heads=heads,
            timer=timer,
            sources=call,
        )
        return self._keep(call, found)

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
        options: dict[str, Any] = {
            "policy": policy,
            "skipped_state": skipped_state,
            "reference": reference,
            "heads": heads,
            "timer": timer,
        }
        if draft_length is not None:
            self.origins.ran(len(requests), 1)
            return generate(stack, requests, draft_length=draft_length, **options)
        keyed = bool(policy.exit_layers) and all(one.key for one in requests)
        follow = keyed and self._derives and decisions_follow(policy, skipped_state)
        batch_key: Hashable = None
        if keyed and not follow:
            identity = digest(
                *(one.key for one in requests), policy.except_threshold, skipped_state
            )
            batch_key = (identity, reference, heads)

        def replay(state: Any, rows: Sequence[Progress]) -> bool:
            return follow and replay_generation(
                *(stack, state, requests, rows),
                policy=policy,
                heads=heads,
                timer=timer,
                cache=self.cache,
                origins=self.origins,
            )

        call = _Call(self.cache, self.batcher, batch_key, replay=replay)
        ready = self._ready(call, policy)
        if ready is not None:
            return ready
        return self._keep(call, generate(stack, requests, sources=call, **options))

    def _replay_scores(
        self,
        stack: StatefulStack,
        batch: ScoreBatch,
        policy: ExitPolicy,
        heads: TrainedHeads | None,
        timer: PhaseTimer,
    ) -> ThresholdReplay:
        with timer.measure("prompt"):
            state = batch.prefill(stack, _Call(self.cache, self.batcher))
        with timer.measure("answer"):
            readers = [batch.reader(stack) for _ in range(len(policy.exit_layers) + 1)]
            token_batch = batch.token_batch(stack)
            return replay_thresholds(stack, state, token_batch, readers, policy=policy, heads=heads)

    def _ready(self, call: _Call, policy: ExitPolicy) -> list[Any] | None:
        """Answers that an earlier run computed in the same batch as its own."""
        ready = None if call.key is None else self.batcher.take(call.key, policy.threshold)
        if ready is not None:
            self.origins.rows += len(ready)
        return ready

    def _keep(self, call: _Call, found: list[Any]) -> list[Any]:
        """The answers under this run's threshold; those under others are kept for later runs."""
        count = len(call.together)
        if not call.replayed:
            self.origins.ran(len(found) // count, count)
        return self.batcher.keep(call.key, call.together, found)


class _Call:
    """What one call of the engine shares with others (``engine.sources.Sources``).

    Args:
        cache: of prompt states and full depth.
        batcher: thresholds of later runs.
        key: identifies the requests and all that changes their answers except the threshold;
            ``None`` where no other threshold may run with this one.
        score_key: identifies the continuations to score and their number format.
        replay: completes rows without decoding; whether it did.
        computed: computes prompt states that are not kept; by default each batch alone.

    Attributes:
        together: the thresholds that ran.
        replayed: whether the answers were completed without decoding.
    """

    def __init__(
        self,
        cache: ReuseCache,
        batcher: ThresholdBatcher,
        key: Hashable = None,
        *,
        score_key: str = "",
        replay: Callable[[Any, Sequence[Progress]], bool] | None = None,
        computed: Computed | None = None,
    ) -> None:
        self._cache, self._batcher, self.key = cache, batcher, key
        self._score_key, self._replay, self._computed = score_key, replay, computed
        self.full_depth: FullDepthAnswers = cache.full_depth
        self.together: tuple[float, ...] = ()
        self.replayed = False

    def prompt_state(
        self,
        stack: StatefulStack,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        prompt_exit: PromptExit | None = None,
    ) -> Any:
        """From the cache."""
        return self._cache.prompt_state(stack, prompts, rows, prompt_exit, self._computed)

    def full_depth_scores(self, run: Callable[[], Reading]) -> Reading:
        """From the cache."""
        kept = self._cache.find_scores(self._score_key)
        if kept is None:
            kept = run()
            self._cache.keep_scores(self._score_key, kept)
        return kept

    def thresholds(self, policy: ExitPolicy, tokens: int, state: Any) -> Sequence[float]:
        """The policy's, and those of later runs for which there is room."""
        self.together = (policy.threshold,)
        if self.key is not None and policy.rule is None:  # other rules run one by one
            size = tensor_bytes(state)
            self.together = self._batcher.together(policy.threshold, tokens, size)
        return self.together

    def replay(self, state: Any, rows: Sequence[Progress]) -> bool:
        """A replay of full depth's answers, where the run has one."""
        self.replayed = self._replay is not None and self._replay(state, rows)
        return self.replayed
