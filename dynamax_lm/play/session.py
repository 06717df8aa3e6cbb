"""One prompt, streamed and timed, and the same prompt at full depth for comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from dynamax_lm.answers import Answer
from dynamax_lm.api import ExitModel
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.phase_timer import PhaseTimer
from dynamax_lm.engine.requests import GenerateRequest, Progress
from dynamax_lm.engine.stateful_stack import StatefulStack
from dynamax_lm.models.runner import EngineRunner
from dynamax_lm.play.stream import StreamedToken, TokenStream

OnToken = Callable[[StreamedToken], None]

_WARM_UP = 2
"""Tokens generated before the first prompt, so that its seconds have no first-call costs."""


@dataclass(frozen=True)
class Played:
    """An answer with its seconds.

    Attributes:
        prompt: as given to the model.
        answer: the answer.
        seconds: of its tokens, without the prompt and without the display.
        full_depth_seconds: of full depth's own answer, in the same process; ``None`` without a
            reference.
        full_depth_tokens: number of tokens of that answer.
    """

    prompt: str
    answer: Answer
    seconds: float
    full_depth_seconds: float | None
    full_depth_tokens: int | None

    @property
    def speedup(self) -> float | None:
        """Tokens per second over full depth's; ``None`` where that was not timed."""
        if not self.full_depth_seconds or not self.seconds or not self.full_depth_tokens:
            return None
        own = len(self.answer.tokens) / self.seconds
        return own / (self.full_depth_tokens / self.full_depth_seconds)


class Session:
    """Prompts for one loaded model.

    Args:
        model: the model; its settings may change between prompts.
        seed: of sampling, as ``lm_eval``'s torch seed.
    """

    def __init__(self, model: ExitModel, seed: int) -> None:
        self.model = model
        self._seed = seed

    def warm_up(self, prompt: str, **gen_kwargs: Any) -> None:
        """Generate the first tokens without showing or timing them."""
        few = min(_WARM_UP, int(gen_kwargs.get("max_gen_toks", _WARM_UP)))
        self.model.generate(prompt, **{**gen_kwargs, "max_gen_toks": few})

    def play(self, prompt: str, on_token: OnToken, **gen_kwargs: Any) -> Played:
        """Continue ``prompt``, calling ``on_token`` with each token when it is final.

        Raises:
            SettingError: a generation option that is not supported, or a prompt that does not fit.
        """
        lm = self.model.lm
        torch.manual_seed(self._seed)
        stream = TokenStream(partial(lm.tok_decode, skip_special_tokens=False))
        runner = _Streaming(stream, on_token, timed=lm.settings.reference)
        with lm.answered_by(runner):
            answer = self.model.generate(prompt, **gen_kwargs)
        return Played(
            prompt, answer, runner.seconds, runner.full_depth_seconds, runner.full_depth_tokens
        )


class _Streaming(EngineRunner):
    """The engine's generation, with a display of every step, and a timed full-depth answer."""

    continuous: ClassVar[bool] = False

    def __init__(self, stream: TokenStream, on_token: OnToken, *, timed: bool) -> None:
        self._stream, self._on_token, self._timed = stream, on_token, timed
        self._displaying = 0.0
        self.seconds = 0.0
        self.full_depth_seconds: float | None = None
        self.full_depth_tokens: int | None = None

    def generate(
        self, stack: StatefulStack, requests: Sequence[GenerateRequest], **options: Any
    ) -> list[GeneratedAnswer]:
        """See ``engine.generate.generate``; of one request."""
        timer: PhaseTimer = options["timer"]
        before = timer.answer
        answers = generate(stack, requests, on_step=self._show, **options)
        timer.answer -= self._displaying
        self.seconds = timer.answer - before
        if left := self._stream.finish():
            self._on_token(StreamedToken(left, stack.n_layers, None))
        if self._timed:
            alone = PhaseTimer()
            (full,) = generate(stack, requests, timer=alone)
            self.full_depth_seconds, self.full_depth_tokens = alone.answer, len(full.trace)
        return answers

    def _show(self, rows: Sequence[Progress]) -> None:
        started = time.perf_counter()
        for token in self._stream.step(rows[0]):
            self._on_token(token)
        self._displaying += time.perf_counter() - started
