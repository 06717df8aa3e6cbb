"""Where a call takes what calls with the same requests can share: prompt states, full depth.

Neither depends on a threshold. By default each call computes its own. A tool that runs the same
requests under several settings passes sources of its own, from which a call also learns the
thresholds that run together, and answers that need no decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.prefill import SharedPrefixes
from dynamax_lm.engine.reading import Reading
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.stateful_stack import StatefulStack


class FullDepthAnswers:
    """Full depth's answers and passes found so far, by the requests' keys.

    They do not depend on the exit policy, so that runs of the same requests under several policies
    can share one object.
    """

    def __init__(self) -> None:
        self._answers: dict[str, tuple[int, ...]] = {}
        self._passes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}

    def find_answer(self, key: str | None) -> tuple[int, ...] | None:
        """Full depth's own answer to the request of ``key``."""
        return None if key is None else self._answers.get(key)

    def keep_answer(self, key: str | None, answer: Sequence[int]) -> None:
        """Keep full depth's own answer, if the request has a key."""
        if key is not None:
            self._answers[key] = tuple(answer)

    def find_pass(self, key: str | None, answer: Sequence[int]) -> tuple[int, ...] | None:
        """What a full-depth pass over ``answer`` emits; ``None`` where none is known."""
        return None if key is None else self._passes.get((key, tuple(answer)))

    def keep_pass(self, key: str | None, answer: Sequence[int], emitted: Sequence[int]) -> None:
        """Keep what a full-depth pass over ``answer`` emits, if the request has a key."""
        if key is not None:
            self._passes[key, tuple(answer)] = tuple(emitted)


class Sources(Protocol):
    """What a call of ``score`` or ``generate`` does not compute itself.

    Attributes:
        full_depth: full depth's answers to generation requests, and passes over answers.
    """

    full_depth: FullDepthAnswers

    def prompt_state(
        self,
        stack: StatefulStack,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        prompt_exit: PromptExit | None = None,
    ) -> Any:
        """An independent state whose row i has ``prompts[rows[i]]`` without its last token.

        Args:
            stack: the decoder.
            prompts: token ids, at least one each.
            rows: of each row of the state, which prompt it has; each prompt at least once.
            prompt_exit: where these tokens exit; ``None`` for no exit.
        """
        ...

    def full_depth_scores(self, run: Callable[[], Reading]) -> Reading:
        """The full-depth pass over the continuations to score, which ``run`` computes."""
        ...

    def thresholds(self, policy: ExitPolicy, tokens: int, state: Any) -> Sequence[float]:
        """The thresholds under which the requests run together, at least one.

        Args:
            policy: the others differ from it in their threshold alone.
            tokens: of a pass under one threshold.
            state: of the prompts, under one threshold.
        """
        ...

    def replay(self, state: Any, rows: Sequence[Progress]) -> bool:
        """Complete ``rows`` without decoding, where that is possible; ``state`` is not changed.

        Args:
            state: of the prompts.
            rows: one for each request, empty.

        Returns:
            Whether it did.
        """
        ...


class Computed:
    """Everything computed by the call itself, under the policy's own threshold (``Sources``).

    What the prompts of successive batches begin with alike is run once.
    """

    def __init__(self) -> None:
        self.full_depth = FullDepthAnswers()
        self._prefixes: dict[PromptExit | None, SharedPrefixes] = {}

    def prompt_state(
        self,
        stack: StatefulStack,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        prompt_exit: PromptExit | None = None,
    ) -> Any:
        """See `Sources`."""
        if prompt_exit not in self._prefixes:
            self._prefixes[prompt_exit] = SharedPrefixes(stack, prompt_exit=prompt_exit)
        state = self._prefixes[prompt_exit].prefill(prompts)
        return state if list(rows) == list(range(len(prompts))) else stack.take(state, rows)

    def full_depth_scores(self, run: Callable[[], Reading]) -> Reading:
        """See `Sources`."""
        return run()

    def thresholds(self, policy: ExitPolicy, tokens: int, state: Any) -> Sequence[float]:
        """See `Sources`."""
        del tokens, state
        return (policy.threshold,)

    def replay(self, state: Any, rows: Sequence[Progress]) -> bool:
        """See `Sources`."""
        del state, rows
        return False


class ComputedInOrder(Computed):
    """The same for successive batches in which requests with one prompt are adjacent.

    The last prompt of a batch is kept, since the next batch may begin with its other requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[PromptExit | None, tuple[tuple[int, ...], Any]] = {}

    def prompt_state(
        self,
        stack: StatefulStack,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        prompt_exit: PromptExit | None = None,
    ) -> Any:
        """See `Sources`."""
        last, known = self._last.get(prompt_exit, ((), None))
        count = len(prompts)
        if last != tuple(prompts[0]):
            state = super().prompt_state(stack, prompts, range(count), prompt_exit)
        elif count == 1:
            state = known
        else:
            state = stack.new_state(count)
            rest = super().prompt_state(stack, prompts[1:], range(count - 1), prompt_exit)
            stack.put(state, [0], known, [0])
            stack.put(state, range(1, count), rest, range(count - 1))
        if state is known:
            return stack.take(state, rows)
        self._last[prompt_exit] = tuple(prompts[-1]), stack.take(state, [count - 1])
        return state if list(rows) == list(range(count)) else stack.take(state, rows)


class PromptStates(NamedTuple):
    """States of a batch of prompts without their last tokens.

    Attributes:
        state: in which answers are generated.
        full_depth: of the same prompts at full depth: ``state`` itself without a prompt exit;
            ``None`` where it is not needed.
    """

    state: Any
    full_depth: Any

    def repeat(self, stack: StatefulStack, rows: int, copies: int) -> PromptStates:
        """The ``rows`` rows of each state ``copies`` times."""
        if copies == 1:
            return self
        several = [*range(rows)] * copies
        state = stack.take(self.state, several)
        if self.full_depth is None or self.full_depth is self.state:
            return PromptStates(state, None if self.full_depth is None else state)
        return PromptStates(state, stack.take(self.full_depth, several))


class Prompts:
    """States of batches of generation requests, also at full depth where answers are compared.

    Args:
        stack: the decoder.
        sources: of the states.
        policy: with the prompt exit and its maps, if any.
        reference: whether answers are compared with full depth.
    """

    def __init__(
        self, stack: StatefulStack, sources: Sources, policy: ExitPolicy, *, reference: bool
    ) -> None:
        self._stack, self._sources = stack, sources
        self._exit = policy.of_prompts
        self._compared = reference or policy.needs_target

    def prefill(self, requests: Sequence[GenerateRequest], timer: PhaseTimer) -> PromptStates:
        """The states of the requests' prompts."""
        prompts = [request.prompt for request in requests]
        each = range(len(prompts))
        with timer.measure("prompt"):
            state = self._sources.prompt_state(self._stack, prompts, each, self._exit)
        if self._exit is None:
            return PromptStates(state, state)
        if not self._compared:
            return PromptStates(state, None)
        with timer.measure("reference"):
            return PromptStates(state, self._sources.prompt_state(self._stack, prompts, each))
