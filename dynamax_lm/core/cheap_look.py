"""Confidences from a cheap look at the vocabulary (``core.looks``).

A measure gets the logits of the look in place of the exact ones, and is otherwise the same. Tokens
that are not on a shortlist have the logit minus infinity, so that logits keep the size of the
vocabulary, and a token its place in them.

Glossary: N tokens of the pass, n tokens checked at an exit, D width, V vocabulary, M tokens of a
list.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from dynamax_lm.core.exit_view import ExitView, Narrowed, View
from dynamax_lm.core.looks import Look


class LookedView(Narrowed):
    """A view whose logits are a look's; whatever needs the exact ones is an error.

    Args:
        view: of the same tokens.
        logits: (n, V) of the look.
    """

    def __init__(self, view: ExitView, logits: Tensor) -> None:
        super().__init__(view)
        self.logits = logits

    @property
    def emission(self) -> NoReturn:
        raise ValueError("a cheap look does not compute the exact logits of an emission")

    target = trained = emission


class VocabularyLook:
    """The looks of one pass; it keeps each token's list.

    Args:
        look: not the exact projection.
        tokens: N.
    """

    def __init__(self, look: Look, tokens: int) -> None:
        self._look, self._tokens = look, tokens
        self._lists: Tensor | None = None
        self._vocabulary = 0

    def logits(self, view: View) -> Tensor:
        """(n, V) logits of the look; minus infinity for tokens that are not on the list.

        A token's list is drawn at exit 0, which every token reaches first. There too the logits
        are those of the list alone, so that one threshold means the same at every exit.
        """
        look = self._look
        if not look.shortlist:
            seen = view.low_rank_logits(look.rank)
            if not look.refine:
                return seen
            best = seen.topk(look.refine, dim=-1).indices
            return seen.scatter(1, best, view.logits_of(best))
        if view.exit:
            assert self._lists is not None, "exit 0 comes before the others"
            listed = self._lists[view.index.to(self._lists.device)]
            return self._spread(listed, view.logits_of(listed))
        first = view.low_rank_logits(look.rank) if look.rank else view.logits
        listed = first.topk(look.shortlist, dim=-1).indices
        if self._lists is None:
            self._lists = listed.new_zeros(self._tokens, look.shortlist)
            self._vocabulary = first.shape[-1]
        self._lists[view.index.to(listed.device)] = listed
        exact = view.logits_of(listed) if look.rank else first.gather(1, listed)
        return self._spread(listed, exact)

    def _spread(self, listed: Tensor, logits: Tensor) -> Tensor:
        """(n, V) ``logits`` (n, M) in the places of ``listed`` (n, M)."""
        empty = logits.new_full((logits.shape[0], self._vocabulary), -torch.inf)
        return empty.scatter_(1, listed.to(logits.device), logits)
