"""Which tokens are the full-depth model's by definition: a rule that reports check again.

A token that ran every layer over a state that no exit has changed is the full-depth model's token:
its computation is that of a model without exits. A second, parallel pass over the same tokens sums
in another order and may, in low precision, disagree; that disagreement is rounding of the pass, not
an effect of exits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynamax_lm.core.trace import DraftRound


def prompt_exited(prompt_exit: int | None, prompt_tokens: int) -> bool:
    """Whether prefilled tokens of an answer exited, so that its state is not full depth's.

    Args:
        prompt_exit: layers that they ran; ``None`` for all.
        prompt_tokens: how many there are.
    """
    return prompt_exit is not None and prompt_tokens > 0


def by_definition(
    layers_used: Sequence[int],
    n_layers: int,
    skipped_state: str,
    *,
    prompt_exited: bool = False,
    rounds: Sequence[DraftRound] = (),
) -> list[bool]:
    """For each of a row's tokens, whether it is full depth's by definition.

    Up to a row's first exit its state is full depth's. After it, only under ``recompute`` do
    skipped layers get the state that full depth gives them; it is exact up to the order of sums,
    since tokens run through their skipped layers in other groups than at full depth. For tokens of
    a lossless answer see :func:`stepped`.

    Args:
        layers_used: layers run for each token until its own exit, in order.
        n_layers: L.
        skipped_state: the skipped-state policy.
        prompt_exited: whether tokens of the prompt exited, so that no state is full depth's.
        rounds: of a lossless answer; else empty.
    """
    if rounds:
        return stepped(rounds, len(layers_used))
    restored = skipped_state == "recompute" and not prompt_exited
    untouched = not prompt_exited
    own: list[bool] = []
    for used in layers_used:
        whole = used == n_layers
        own.append(whole and (untouched or restored))
        untouched = untouched and whole
    return own


def stepped(rounds: Iterable[DraftRound], tokens: int) -> list[bool]:
    """For each token of a lossless answer, whether it is full depth's by definition.

    It is where one token ran all layers alone, as in a full-depth step. Longer drafts are verified
    in longer passes, which sum in another order.

    Args:
        rounds: of the answer.
        tokens: of the answer.
    """
    own = [False] * tokens
    for one in rounds:
        if one.inputs == 1 and one.start < tokens:
            own[one.start] = True
    return own
