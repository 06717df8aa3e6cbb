"""Confidence measures: numbers in [0, 1], higher is more confident, from logits or hidden states.

This module computes the measures; ``core.measures`` has their names, costs and requirements.

Glossary: n tokens checked at an exit, D width, V vocabulary. Sources:

- ``top_prob``: the maximum softmax probability, as a confidence from Hendrycks and Gimpel
  (arXiv 1610.02136).
- ``margin``: CALM's softmax response, the difference of the two largest (arXiv 2207.07061).
- ``saturation``: after CALM's hidden-state saturation, which compares consecutive layers, while
  this compares consecutive exits. The further apart these lie, the lower it is.
- ``entropy``: BranchyNet (arXiv 1709.01686) and DeeBERT (arXiv 2004.12993), which exit below a
  threshold of the entropy itself; here one minus the normalised entropy.
- ``patience``: PABEE (arXiv 2006.04152), which counts agreements; here their fraction.
- ``oracle``: after the oracle of CALM's experiments.
- ``head``: a trained classifier, as CALM's; the kinds and their sources are in ``heads``.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dynamax_lm.core import measures
from dynamax_lm.core.cheap_look import LookedView, VocabularyLook
from dynamax_lm.core.exit_view import ExitView, Narrowed, View
from dynamax_lm.core.looks import FULL
from dynamax_lm.core.measures import MeasureFacts, class_of, facts_of, implements


class Measure:
    """A measure over the exits of one pass; it may keep state about a token's earlier exits.

    The confidence of a token depends on that token alone, never on the others checked with it:
    rows of a batch, and thresholds that share a pass, would otherwise change each other's answers.

    >>> class TopProb(Measure):
    ...     facts = MeasureFacts(reads="logits")
    ...     def ask(self, view):
    ...         return view.logits.float().softmax(-1).amax(-1)
    >>> TopProb(tokens=1, exits=4).facts.reads
    'logits'

    Attributes:
        facts: name, costs and requirements.

    Args:
        tokens: N, how many tokens the pass has, or can have at a time.
        exits: how many exits there are.
    """

    facts: ClassVar[MeasureFacts]

    def __init__(self, *, tokens: int, exits: int) -> None:
        self.tokens, self.exits = tokens, exits

    def ask(self, view: ExitView) -> Tensor:
        """(n,) float32 confidences in [0, 1], higher is more confident."""
        raise NotImplementedError


@implements(measures.TOP_PROB)
class TopProb(Measure):
    """The largest probability."""

    def ask(self, view: ExitView) -> Tensor:
        logits = view.logits.float()
        return (logits.amax(-1) - logits.logsumexp(-1)).exp().clamp(0.0, 1.0)


@implements(measures.MARGIN)
class Margin(Measure):
    """The largest probability minus the second largest."""

    def ask(self, view: ExitView) -> Tensor:
        logits = view.logits.float()
        top = (logits.topk(2, dim=-1).values - logits.logsumexp(-1, keepdim=True)).exp()
        return (top[:, 0] - top[:, 1]).clamp(0.0, 1.0)


@implements(measures.ENTROPY)
class Entropy(Measure):
    """One minus the entropy divided by its maximum, log V."""

    def ask(self, view: ExitView) -> Tensor:
        logits = view.logits.float()
        log_probabilities = logits.log_softmax(-1)
        terms = log_probabilities.exp() * log_probabilities
        entropy = -terms.nan_to_num(0.0).sum(-1)  # 0 * -inf is 0 here
        most = torch.log(torch.tensor(float(logits.shape[-1])))
        return (1.0 - entropy / most).clamp(0.0, 1.0)


@implements(measures.SATURATION)
class Saturation(Measure):
    """Cosine of this exit's hidden state and the previous exit's, clipped at 0; 0 at the first.

    CALM's measure of this name compares a layer with the layer before it. With an exit after every
    layer the two are the same, except at the first exit.
    """

    def __init__(self, *, tokens: int, exits: int) -> None:
        super().__init__(tokens=tokens, exits=exits)
        self._previous: Tensor | None = None

    def ask(self, view: ExitView) -> Tensor:
        hidden = view.hidden.float()
        if self._previous is None:
            self._previous = hidden.new_zeros(self.tokens, hidden.shape[1])
        previous = self._previous.to(hidden.device)
        index = view.index.to(hidden.device)
        likeness = torch.cosine_similarity(hidden, previous[index], dim=-1).clamp(0.0, 1.0)
        previous[index] = hidden
        self._previous = previous
        return torch.zeros_like(likeness) if view.exit == 0 else likeness


@implements(measures.PATIENCE)
class Patience(Measure):
    """(Agreeing exits in a row - 1) / (exits - 1), by the most likely token."""

    def __init__(self, *, tokens: int, exits: int) -> None:
        super().__init__(tokens=tokens, exits=exits)
        self._token = torch.full((tokens,), -1)
        self._streak = torch.full((tokens,), -1)

    def ask(self, view: ExitView) -> Tensor:
        token = view.logits.argmax(-1)
        index = view.index.to(token.device)
        self._token, self._streak = self._token.to(token.device), self._streak.to(token.device)
        agrees = token == self._token[index]
        if view.exit == 0:  # what is stored at the index may be of an earlier token
            agrees = torch.zeros_like(agrees)
        streak = torch.where(agrees, self._streak[index] + 1, 0)
        self._token[index], self._streak[index] = token, streak
        return streak.float() / (self.exits - 1)


@implements(measures.ORACLE)
class Oracle(Measure):
    """1 where the exit emits the token that full depth emits from an exact state, else 0.

    An upper bound, never a result.
    """

    def ask(self, view: ExitView) -> Tensor:
        return (view.emission == view.target).float()


@implements(measures.HEAD)
class Head(Measure):
    """A trained classifier's calibrated probability that exiting is right."""

    def ask(self, view: ExitView) -> Tensor:
        return view.trained.float().clamp(0.0, 1.0)


@implements(measures.NOTHING)
class Nothing(Measure):
    """NaN, for rules that decide without a confidence."""

    def ask(self, view: ExitView) -> Tensor:
        return torch.full(view.index.shape, torch.nan, device=view.index.device)


class _HiddenOnly(Narrowed):
    """A view without logits, for a measure whose facts bill no vocabulary projection."""

    def __init__(self, view: ExitView, name: str) -> None:
        super().__init__(view)
        self._name = name

    @property
    def target(self) -> Tensor:
        return self._view.target

    @property
    def logits(self) -> Tensor:
        raise ValueError(f"confidence={self._name} reads logits; state reads='logits' in its facts")

    emission = trained = logits


class _Checked:
    """A measure from outside the package; shape and range of its output are validated."""

    def __init__(self, measure: Measure, facts: MeasureFacts) -> None:
        self._measure, self._facts = measure, facts

    def ask(self, view: ExitView) -> Tensor:
        """(n,) float32 in [0, 1].

        Raises:
            ValueError: another shape or range, or logits read that its facts do not declare.
        """
        name, count = self._facts.name, view.index.shape[0]
        only_hidden = self._facts.reads == "hidden" and not self._facts.needs_target
        output = self._measure.ask(_HiddenOnly(view, name) if only_hidden else view)
        if not isinstance(output, Tensor) or output.shape != (count,):
            shape = tuple(getattr(output, "shape", ())) or type(output).__name__
            raise ValueError(
                f"confidence={name} returns shape {shape} for {count} tokens; return ({count},)"
            )
        confidence = output.float()
        if not bool(((confidence >= 0.0) & (confidence <= 1.0)).all()):
            raise ValueError(
                f"confidence={name} returns {confidence.tolist()[:4]}; return values in [0, 1]"
            )
        return confidence


class _Looking:
    """A measure over the logits of a cheap look.

    Args:
        measure: reads logits, and no emission.
        look: of the pass.
    """

    def __init__(self, measure: Measure | _Checked, look: VocabularyLook) -> None:
        self._measure, self._look = measure, look

    def ask(self, view: View) -> Tensor:
        view.looked = self._look.logits(view)
        return self._measure.ask(LookedView(view, view.looked))


class Confidence(Protocol):
    """A measure as the loop calls it at the exits of one pass."""

    def ask(self, view: View) -> Tensor:
        """(n,) float32 confidences in [0, 1]."""
        ...


def make_confidence(name: str, *, tokens: int, exits: int) -> Confidence:
    """A new measure for one pass of ``tokens`` tokens over ``exits`` exits.

    Raises:
        ValueError: ``name`` is none of the measures (settings refuse it earlier).
    """
    facts = facts_of(name)
    plain: Measure = class_of(name)(tokens=tokens, exits=exits)
    measure = _Checked(plain, facts) if facts.outside else plain
    return measure if facts.look == FULL else _Looking(measure, VocabularyLook(facts.look, tokens))
