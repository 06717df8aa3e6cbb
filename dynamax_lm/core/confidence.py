"""How sure an exit is: numbers in [0, 1], higher is surer, read from raw logits or hidden states.

Owns the confidence measures; what is known of each without asking it is in ``core.measures``. It
does not know thresholds, models, files, or how a token is chosen.

Glossary: n tokens asked at an exit, D width, V vocabulary. Sources:

- ``top_prob``: the maximum softmax probability, as a confidence from Hendrycks and Gimpel
  (arXiv 1610.02136).
- ``margin``: CALM's softmax response, the difference of the two largest (arXiv 2207.07061).
- ``saturation``: after CALM's hidden-state saturation, which compares consecutive layers, while
  this compares consecutive exits. The further apart these lie, the lower it is.
- ``entropy``: BranchyNet (arXiv 1709.01686) and DeeBERT (arXiv 2004.12993), which leave below a
  threshold of the entropy itself; turned and scaled here, so that higher is surer.
- ``patience``: PABEE (arXiv 2006.04152), which counts agreements; here their share.
- ``oracle``: after the oracle of CALM's experiments.
- ``head``: a trained classifier, as CALM's; the kinds and their sources are in ``heads``.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dynamax_lm.core import measures
from dynamax_lm.core.measures import MeasureFacts, class_of, facts_of, implements


class ExitView(Protocol):
    """What may be read at an exit. Reading ``logits`` makes a vocabulary projection."""

    @property
    def exit(self) -> int:
        """Which exit this is, from 0."""
        ...

    @property
    def index(self) -> Tensor:
        """(n,) which of the pass's N tokens are asked."""
        ...

    @property
    def hidden(self) -> Tensor:
        """(n, D) hidden states of the tokens asked."""
        ...

    @property
    def logits(self) -> Tensor:
        """(n, V) raw logits of this exit."""
        ...

    @property
    def emission(self) -> Tensor:
        """(n,) the tokens this exit would emit."""
        ...

    @property
    def target(self) -> Tensor:
        """(n,) the tokens that an exact full-depth state emits; only for the oracle."""
        ...

    @property
    def trained(self) -> Tensor:
        """(n,) what trained heads say of the tokens asked; only for them. Read it once."""
        ...


class Measure:
    """A measure over the exits of one pass; it may remember a token's earlier exits.

    What it says of a token depends on that token alone, never on the others asked with it: rows of
    a batch, and thresholds that share a pass, would otherwise change each other's answers.

    Attributes:
        facts: what is known without asking.

    Args:
        tokens: N, how many tokens the pass has.
        exits: how many exits there are.
    """

    facts: ClassVar[MeasureFacts]

    def __init__(self, *, tokens: int, exits: int) -> None:
        self.tokens, self.exits = tokens, exits

    def ask(self, view: ExitView) -> Tensor:
        """(n,) float32 confidences in [0, 1], higher is surer."""
        raise NotImplementedError


@implements(measures.TOP_PROB)
class TopProb(Measure):
    """The largest probability."""

    def ask(self, view: ExitView) -> Tensor:
        logits = view.logits.float()
        return (logits.amax(-1) - logits.logsumexp(-1)).exp().clamp(0.0, 1.0)


@implements(measures.MARGIN)
class Margin(Measure):
    """The largest probability less the second largest."""

    def ask(self, view: ExitView) -> Tensor:
        logits = view.logits.float()
        top = (logits.topk(2, dim=-1).values - logits.logsumexp(-1, keepdim=True)).exp()
        return (top[:, 0] - top[:, 1]).clamp(0.0, 1.0)


@implements(measures.ENTROPY)
class Entropy(Measure):
    """One minus the entropy's share of its maximum, log V."""

    def ask(self, view: ExitView) -> Tensor:
        logits = view.logits.float()
        log_probabilities = logits.log_softmax(-1)
        terms = log_probabilities.exp() * log_probabilities
        entropy = -terms.nan_to_num(0.0).sum(-1)  # 0 * -inf is 0 here
        most = torch.log(torch.tensor(float(logits.shape[-1])))
        return (1.0 - entropy / most).clamp(0.0, 1.0)


@implements(measures.SATURATION)
class Saturation(Measure):
    """Cosine of this exit's hidden state and the previous exit's, floored at 0; 0 at the first.

    CALM's measure of this name compares a layer with the layer before it. With an exit after every
    layer the two are the same, but for the first.
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
        streak = torch.where(agrees, self._streak[index] + 1, 0)
        self._token[index], self._streak[index] = token, streak
        return streak.float() / (self.exits - 1)


@implements(measures.ORACLE)
class Oracle(Measure):
    """1 where the exit's token is that of an exact, separate full-depth state, else 0.

    A ceiling, never a result.
    """

    def ask(self, view: ExitView) -> Tensor:
        return (view.emission == view.target).float()


@implements(measures.HEAD)
class Head(Measure):
    """A trained classifier's calibrated probability that leaving is right."""

    def ask(self, view: ExitView) -> Tensor:
        return view.trained.float().clamp(0.0, 1.0)


@implements(measures.NOTHING)
class Nothing(Measure):
    """NaN, for rules that decide without a confidence."""

    def ask(self, view: ExitView) -> Tensor:
        return torch.full(view.index.shape, torch.nan, device=view.index.device)


class _HiddenOnly:
    """An exit at which no logits may be read, since no projection is billed with the check."""

    def __init__(self, view: ExitView, name: str) -> None:
        self._view, self._name = view, name

    @property
    def exit(self) -> int:
        return self._view.exit

    @property
    def index(self) -> Tensor:
        return self._view.index

    @property
    def hidden(self) -> Tensor:
        return self._view.hidden

    @property
    def target(self) -> Tensor:
        return self._view.target

    @property
    def logits(self) -> Tensor:
        raise ValueError(f"confidence={self._name} reads logits; state reads='logits' in its facts")

    emission = trained = logits


class _Checked:
    """A measure from outside the package, whose answers are held against what they must be."""

    def __init__(self, measure: Measure, facts: MeasureFacts) -> None:
        self._measure, self._facts = measure, facts

    def ask(self, view: ExitView) -> Tensor:
        """(n,) float32 in [0, 1].

        Raises:
            ValueError: it says anything else, or reads what its facts do not say.
        """
        name, count = self._facts.name, view.index.shape[0]
        only_hidden = self._facts.reads == "hidden" and not self._facts.needs_target
        said = self._measure.ask(_HiddenOnly(view, name) if only_hidden else view)
        if not isinstance(said, Tensor) or said.shape != (count,):
            shape = tuple(getattr(said, "shape", ())) or type(said).__name__
            raise ValueError(
                f"confidence={name} returns shape {shape} for {count} tokens; return ({count},)"
            )
        sure = said.float()
        if not bool(((sure >= 0.0) & (sure <= 1.0)).all()):
            raise ValueError(
                f"confidence={name} returns {sure.tolist()[:4]}; return values in [0, 1]"
            )
        return sure


class Confidence(Protocol):
    """Whatever can be asked at the exits of one pass."""

    def ask(self, view: ExitView) -> Tensor:
        """(n,) float32 confidences in [0, 1]."""
        ...


def make_confidence(name: str, *, tokens: int, exits: int) -> Confidence:
    """A fresh measure for one pass of ``tokens`` tokens over ``exits`` exits.

    Raises:
        ValueError: ``name`` is none of the measures (settings refuse it earlier).
    """
    facts = facts_of(name)
    measure: Measure = class_of(name)(tokens=tokens, exits=exits)
    return _Checked(measure, facts) if facts.outside else measure
