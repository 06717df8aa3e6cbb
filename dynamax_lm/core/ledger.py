"""FLOPs of tokens in closed form, from the numbers of a configuration; imports no torch.

Convention, written into every result as ``CONVENTION``: 2 per multiply-add. Counted are the matrix
products, attention's two products over the visible keys, the depthwise convolution, and the SSM
step. The last is 5 per state element: decay, outer product and sum advance the state (3), product
and sum read it out (2). Elementwise work (rotary embedding, softmax, activations, gates, biases,
residual sums, the layers' own norms, the argmax of an exit) is not counted, except for work that an
exit adds: its norm (4 per element: square, sum, scale, weight) and saturation's cosine (6 per
element: three dot products). Looking up an embedding costs 0.

The state of skipped layers is billed with the token that exits. It is computed with the next token
of the answer that runs these layers, so that the last exits of an answer cost less than billed. The
state that prompt tokens leave in the layers above ``prompt_exit`` is part of the prefill, with the
maps of their hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynamax_lm.core.catchup import RECOMPUTE, final_depths
from dynamax_lm.core.costs import DecoderCosts, norm_flops, unembed_flops
from dynamax_lm.core.measures import Check, MeasureFacts, facts_of
from dynamax_lm.core.skipped_states import PROMPT_STATE, SkippedFacts
from dynamax_lm.core.trace import AnswerTrace, DraftRound, FlopsBreakdown

CONVENTION = (
    "FLOPs, 2 per multiply-add: matrix products, attention over the keys a token really sees "
    "(causal and windowed), depthwise convolution, and the SSM in its recurrent form at 5 per "
    "state element (advance 3, read-out 2), in the prompt too. Elementwise work is not counted, "
    "except the norm (4 per element) and cosine (6 per element) of exits and emission; embedding "
    "lookups cost 0. Each exit asked is billed; a vocabulary projection made by a check is reused "
    "for the emission. flops_saved is net: 1 - spent / full depth."
)


class HeadCosts(NamedTuple):
    """FLOPs of the trained modules of one exit, for one token.

    >>> HeadCosts(classifier=100).translator
    0

    Attributes:
        classifier: its norm and classifier, billed with each check of confidence ``head``.
        translator: billed whenever this exit's logits are computed: with each check that reads
            them, by whatever look, else with the emission.
    """

    classifier: int = 0
    translator: int = 0


class _Depth(NamedTuple):
    """FLOPs of a token in addition to its layers, when it exits at one depth.

    Attributes:
        checks: of the exits passed.
        projection: of the emission.
        propagation: the state of the layers above, without what depends on the context.
        per_key: what that state costs for each token up to and including this one.
        draft: of a token that it drafts, after its check.
    """

    checks: int
    projection: int
    propagation: int
    per_key: int = 0
    draft: int = 0


class Ledger:
    """Bills answers under one exit policy.

    >>> import dynamax_lm
    >>> costs = dynamax_lm.load("tiny").lm.stack.costs
    >>> bill = Ledger(costs, exit_layers=(4, 8)).answer(prompt_tokens=10, layers_used=[4, 16])
    >>> bill.layers < bill.full_depth and bill.checks > 0
    True

    Args:
        costs: the architecture.
        exit_layers: ascending, each in 1..L-1; empty for full depth.
        confidence: the measure: its name if it is registered, or its facts.
        skipped_state: the skipped-state policy: its name, or its facts.
        exit_extras: what is trained for each exit; as long as ``exit_layers``, or empty for none.
        prompt_exit: layers that prompt tokens run, 1..L; ``None`` for all.
        prompt_maps: FLOPs of the maps of one prompt token that exits; 0 for none.
        lossless: whether generated tokens are drafted and verified, and continuations scored at
            full depth.

    Raises:
        ValueError: exits out of range or order, an unknown measure, or a ``skipped_state`` that
            the architecture lacks.
    """

    def __init__(
        self,
        costs: DecoderCosts,
        *,
        exit_layers: Sequence[int] = (),
        confidence: str | MeasureFacts = "top_prob",
        skipped_state: str | SkippedFacts = "propagate",
        exit_extras: Sequence[HeadCosts] = (),
        prompt_exit: int | None = None,
        prompt_maps: int = 0,
        lossless: bool = False,
    ) -> None:
        exits = tuple(exit_layers)
        if list(exits) != sorted(set(exits)) or not all(0 < e < costs.n_layers for e in exits):
            raise ValueError(f"exits ascend within 1..{costs.n_layers - 1}, got {exits}")
        if len(exit_extras) not in {0, len(exits)}:
            raise ValueError(f"{len(exits)} exits but {len(exit_extras)} exit_extras")
        if prompt_exit is not None and not 0 < prompt_exit <= costs.n_layers:
            raise ValueError(f"prompt tokens run 1..{costs.n_layers} layers, not {prompt_exit}")
        if prompt_maps and prompt_exit is None:
            raise ValueError("prompt tokens that run all layers have no maps")
        self._costs, self._lossless = costs, lossless
        self._prompt_exit, self._prompt_maps = prompt_exit, prompt_maps
        self._recompute = bool(exits) and skipped_state == RECOMPUTE
        self._depths = self._costs_by_depth(exits, facts_of(confidence), skipped_state, exit_extras)

    def _costs_by_depth(
        self,
        exits: tuple[int, ...],
        measure: MeasureFacts,
        skipped_state: str | SkippedFacts,
        extras: Sequence[HeadCosts],
    ) -> dict[int, _Depth]:
        """By depth, an exit's or L, the FLOPs of a token in addition to its layers."""
        costs = self._costs
        norm, emission = norm_flops(costs), norm_flops(costs) + unembed_flops(costs)
        reads_logits, look = measure.reads == "logits", measure.look
        depths: dict[int, _Depth] = {}
        checks = 0
        for exit, layer in enumerate(exits):
            extra = extras[exit] if extras else HeadCosts()
            checks += measure.flops(Check(exit, costs.width, costs.vocabulary))
            if reads_logits:
                checks += norm + look.flops(exit, costs.width, costs.vocabulary) + extra.translator
            elif measure.reads == "heads":
                checks += extra.classifier
            state = costs.states(skipped_state, layer)
            projection = emission + (0 if reads_logits else extra.translator)
            if reads_logits and look.exact_at(exit):
                projection = 0
            grows = costs.states_per_key(skipped_state, layer)
            draft = 0 if reads_logits else projection
            depths[layer] = _Depth(checks, projection, state, grows, draft)
        depths[costs.n_layers] = _Depth(checks, emission, 0)
        return depths

    def _prompt(self, tokens: int) -> dict[str, int]:
        """The items of the prefill of ``tokens``."""
        whole = self._costs.prompt(tokens)
        if self._prompt_exit is None:
            return {"prompt": whole}
        spent = self._costs.prompt(tokens, self._prompt_exit)
        state = self._costs.states(PROMPT_STATE, self._prompt_exit)
        spent += tokens * (state + self._prompt_maps)
        seen = tokens * (tokens + 1) // 2
        spent += seen * self._costs.states_per_key(PROMPT_STATE, self._prompt_exit)
        return {"prompt": spent, "prompt_saved": whole - spent}

    def bill(self, answer: AnswerTrace) -> FlopsBreakdown:
        """FLOPs of one answer as it was computed, independent of its batch.

        Raises:
            ValueError: a depth that is neither an exit nor L.
        """
        if not self._lossless:
            return self.answer(answer.prompt_tokens, answer.layers_used)
        scored = answer.text_tokens is None and answer.rounds is None
        if scored:
            return self._at_full_depth(answer.prompt_tokens, len(answer))
        return self.lossless(answer.prompt_tokens, answer.rounds or (), len(answer))

    def answer(self, prompt_tokens: int, layers_used: Sequence[int]) -> FlopsBreakdown:
        """FLOPs of an answer whose tokens exit at given depths, and are not drafts.

        Args:
            prompt_tokens: tokens prefilled: the prompt without its last token. The answer's token i
                is therefore emitted at position ``prompt_tokens + i``.
            layers_used: layers run for each of the answer's tokens: an exit's, or L.

        Raises:
            ValueError: a depth that is neither an exit nor L, or a negative ``prompt_tokens``.
        """
        if prompt_tokens < 0:
            raise ValueError(f"prompt_tokens is at least 0, got {prompt_tokens}")
        costs = self._costs
        layers = checks = projection = propagation = recomputation = full_depth = 0
        depths_at_end = (
            final_depths(layers_used, costs.n_layers) if self._recompute else layers_used
        )
        pairs = zip(layers_used, depths_at_end, strict=True)
        for position, (used, final) in enumerate(pairs, start=prompt_tokens):
            depth = self._depths.get(used)
            if depth is None:
                raise ValueError(f"a token exits at {sorted(self._depths)}, not at layer {used}")
            layers += costs.layers(position, 0, used)
            full_depth += costs.layers(position, 0, costs.n_layers)
            checks += depth.checks
            projection += depth.projection
            propagation += depth.propagation + (position + 1) * depth.per_key
            recomputation += costs.layers(position, used, final)
        full_depth += len(layers_used) * self._depths[costs.n_layers].projection
        return FlopsBreakdown(
            **self._prompt(prompt_tokens),
            layers=layers,
            checks=checks,
            projection=projection,
            propagation=propagation,
            recomputation=recomputation,
            full_depth=full_depth,
        )

    def _at_full_depth(self, prompt_tokens: int, tokens: int) -> FlopsBreakdown:
        """FLOPs of ``tokens`` tokens that run all layers and pass no exit."""
        costs = self._costs
        positions = range(prompt_tokens, prompt_tokens + tokens)
        layers = sum(costs.layers(position, 0, costs.n_layers) for position in positions)
        projection = tokens * self._depths[costs.n_layers].projection
        return FlopsBreakdown(
            **self._prompt(prompt_tokens),
            layers=layers,
            projection=projection,
            full_depth=layers + projection,
        )

    def lossless(
        self, prompt_tokens: int, rounds: Sequence[DraftRound], tokens: int
    ) -> FlopsBreakdown:
        """FLOPs of a lossless answer, independent of its batch; rejected tokens are billed.

        Args:
            prompt_tokens: as for :meth:`answer`.
            rounds: its drafts.
            tokens: number of tokens of the answer.
        """
        costs, top = self._costs, self._depths[self._costs.n_layers]
        layers = checks = projection = verification = 0
        for one in rounds:
            position = prompt_tokens + one.start
            for used in one.depths:
                depth = self._depths[used]
                layers += costs.layers(position, 0, used)
                checks += depth.checks
                projection += depth.draft
                verification += costs.layers(position, used, costs.n_layers) + top.projection
                position += 1
            if one.inputs > len(one.depths):  # no token was drafted after the last input
                layers += costs.layers(position, 0, costs.n_layers)
                checks += top.checks if one.checked else 0
                projection += top.projection
        positions = range(prompt_tokens, prompt_tokens + tokens)
        full_depth = sum(costs.layers(position, 0, costs.n_layers) for position in positions)
        return FlopsBreakdown(
            **self._prompt(prompt_tokens),
            layers=layers,
            checks=checks,
            projection=projection,
            verification=verification,
            full_depth=full_depth + tokens * top.projection,
        )
