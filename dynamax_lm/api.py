"""The Python interface: a model with its exits, which runs the same code as lm-eval does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast, overload

import numpy as np
import torch

from dynamax_lm.answers import Answer, ExitGrid, Score
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.token_pieces import split
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.core.trace import ExitRecord
from dynamax_lm.decoders.checkpoint import (
    ATTENTION,
    FAMILY,
    HUB_OPTIONS,
    MAMBA2,
    TINY,
    resolve_name,
    unreachable,
)
from dynamax_lm.engine.exit_probe import ConfidenceGrid, ExitObserver, TokenGrid, probe_exits
from dynamax_lm.harness.responses import record_of
from dynamax_lm.models.exit_model import DynamaxLM
from dynamax_lm.models.lm import Dynamax, DynamaxMamba, DynamaxMistral
from dynamax_lm.settings import ExitSettings, measures, skipped

_MODELS = {
    ATTENTION.model: DynamaxMistral,
    MAMBA2.model: DynamaxMamba,
    FAMILY.model: Dynamax,
}


class ExitModel:
    r"""A loaded checkpoint with its exits; see :func:`load`.

    >>> model = load("tiny", threshold=0.9)
    >>> score = model.score("Q: Who wrote Hamlet?\nA:", " Shakespeare")
    >>> score.flops.spent > 0
    True
    >>> model.change(threshold=0.5)
    >>> model.settings.threshold
    0.5

    Attributes:
        lm: the lm-eval model behind it; ``lm_eval.simple_evaluate(model=model.lm, ...)`` takes it.
    """

    def __init__(self, lm: DynamaxLM) -> None:
        self.lm = lm

    @property
    def settings(self) -> ExitSettings:
        """The settings in force."""
        return self.lm.settings

    @property
    def ledger(self) -> Ledger:
        """Counts the FLOPs of an answer under these settings."""
        return self.lm.ledger

    @property
    def n_layers(self) -> int:
        """L."""
        return int(self.lm.stack.n_layers)

    def change(self, **settings: Any) -> None:
        """Change settings, with the same weights.

        Args:
            **settings: as for :func:`load`, replacing those given so far.

        Raises:
            SettingError: a wrong name or value, or one that is fixed once weights are loaded.
        """
        self.lm.change(**settings)

    @overload
    def generate(self, prompt: str, **gen_kwargs: Any) -> Answer: ...
    @overload
    def generate(self, prompt: Sequence[str], **gen_kwargs: Any) -> list[Answer]: ...
    def generate(self, prompt: str | Sequence[str], **gen_kwargs: Any) -> Answer | list[Answer]:
        """Continue a prompt, or several as batches.

        Args:
            prompt: text, or several.
            **gen_kwargs: as a task's ``generation_kwargs``: ``until``, ``max_gen_toks``,
                ``do_sample``, ``temperature``...

        Raises:
            SettingError: an option that is not supported.
        """
        from lm_eval.api.instance import Instance

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        requests = [
            Instance("generate_until", {}, (one, dict(gen_kwargs)), 0, (None, number, 1))
            for number, one in enumerate(prompts)
        ]
        answers = [
            self._answer(text, _record(text))
            for text in self.lm.generate_until(requests, disable_tqdm=True)
        ]
        return answers[0] if isinstance(prompt, str) else answers

    def score(self, context: str, continuation: str) -> Score:
        """The log-likelihood of ``continuation`` after ``context``."""
        from lm_eval.api.instance import Instance

        request = Instance("loglikelihood", {}, (context, continuation), 0, (None, 0, 1))
        (response,) = self.lm.loglikelihood([request], disable_tqdm=True)
        record = _record(response)
        reference = cast("tuple[float, bool] | None", record.reference)
        return Score(response[0], response[1], record.traces[0], record.billed_text, reference)

    def probe(
        self,
        text: str | Sequence[int],
        exit_layers: Sequence[int] | None = None,
        confidence: str | None = None,
    ) -> ExitGrid:
        """Evaluate every exit after every token of ``text``.

        Args:
            text: at least one token; or token ids.
            exit_layers: layers run before each exit, ascending, each in 1..L-1; by default those
                with trained heads where the measure is ``head``, else all.
            confidence: name of a measure, over exact logits; by default the model's, as it looks,
                or ``top_prob`` where that is ``head`` and no heads are loaded (``mode=full``).

        Raises:
            SettingError: an empty text, exits out of range, or a measure that needs more exits.
        """
        ids = list(self.lm.tok_encode(text) if isinstance(text, str) else text)
        heads, measure = self.lm.exit_heads, self.settings.measure
        if confidence is None and measure == "head" and heads is None:
            confidence = "top_prob"
        if confidence is not None:
            measure = find_measure(confidence)
        trained = () if heads is None else heads.config.exit_layers
        usual = trained if measure == "head" else range(1, self.n_layers)
        layers = list(usual if exit_layers is None else exit_layers)
        if not ids:
            raise SettingError("probe: the text has no token")
        if layers != sorted(set(layers)) or not all(0 < one < self.n_layers for one in layers):
            raise SettingError(f"exit_layers={layers}: ascending, within 1..{self.n_layers - 1}")
        if measure == "oracle":
            raise SettingError("confidence=oracle: a probe shows `agrees`; name another measure")
        if measure == "head" and not (layers and set(layers) <= set(trained)):
            raise SettingError(
                "confidence=head: give exit_layers at which there are heads, or another measure"
            )
        stack = self.lm.stack
        confidences = ConfidenceGrid(measure, len(ids), len(layers))
        predicted = TokenGrid(len(ids), len(layers))
        with torch.inference_mode():
            token_batch = TokenBatch.of([ids], [0], stack.device)
            observers: list[ExitObserver] = [confidences, predicted]
            probe_exits(stack, stack.new_state(1), token_batch, layers, observers, heads=heads)
        return ExitGrid(
            np.array(ids),
            self._pieces(ids),
            np.array(layers),
            predicted.tokens.numpy(),
            confidences.confidence.numpy(),
            np.array([[self._piece(one) for one in row] for row in predicted.tokens.tolist()]),
            measure,
        )

    def _answer(self, text: str, record: ExitRecord) -> Answer:
        (trace,) = record.traces
        return Answer(
            text=str(text),
            trace=trace,
            flops=record.billed_text,
            reference=cast("str | None", record.reference),
            pieces=self._pieces(trace.tokens),
            full_depth_pieces=tuple(
                None if row.full_depth in {None, row.emitted} else self._piece(row.full_depth)
                for row in trace.rows()
            ),
            depths=(*self.settings.exit_layers, self.n_layers),
        )

    def _piece(self, token: int | None) -> str:
        """The text of one token alone."""
        return str(self.lm.tok_decode([token], skip_special_tokens=False))

    def _pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text that each token adds to the previous ones."""
        decode = partial(self.lm.tok_decode, skip_special_tokens=False)
        return tuple(split(ids, decode))


def load(pretrained: str = TINY, model: str | None = None, **model_args: Any) -> ExitModel:
    r"""Load a checkpoint with early exits.

    >>> import dynamax_lm
    >>> model = dynamax_lm.load("tiny", threshold=0.9, confidence="top_prob")
    >>> answer = model.generate("Q: Who wrote Hamlet?\nA:", until=["\n"], max_gen_toks=8)
    >>> len(answer.layers_used) == len(answer.trace.tokens)
    True

    Args:
        pretrained: hub id, folder, or an embedded checkpoint (``tiny``, ``tiny-mistral``,
            ``tiny-mamba``, ``tiny-hybrid``).
        model: ``dynamax-mistral``, ``dynamax-mamba`` or ``dynamax``; by default read from the
            checkpoint's configuration (``tiny``: ``dynamax-mistral``).
        **model_args: as in ``--model_args``: the exits' settings, and those of lm-eval's ``hf``
            model.

    Raises:
        SettingError: a wrong name or value, before weights load.
    """
    name = model or _model_of(pretrained, model_args)
    if name not in _MODELS:
        raise SettingError(f"model={name!r}: one of {', '.join(_MODELS)}")
    return ExitModel(_MODELS[name](pretrained, **model_args))


def find_measure(written: str) -> str:
    """The name of a confidence measure, for `ExitPolicy` and `Ledger`.

    >>> find_measure("margin")
    'margin'

    Args:
        written: a name of the package, ``FILE.py:CLASS``, or an installed entry point.

    Returns:
        The name; of a class from outside the package, with the digest of its source.

    Raises:
        SettingError: no such measure, or code that is none.
    """
    return measures.find_measure(written).name


def find_skipped_state(written: str, costs: DecoderCosts) -> str:
    """The name of a skipped-state policy, for `generate`, `score` and `Ledger`.

    >>> find_skipped_state("propagate", load("tiny").lm.stack.costs)
    'propagate'

    Args:
        written: as for :func:`find_measure`; or one for each kind of layer.
        costs: of the decoder that has the layers, ``stack.costs``.

    Raises:
        SettingError: these layers do not have it, or code that is none.
    """
    return skipped.find_skipped_state(skipped.read_skipped_state(written) or written, costs)


def _model_of(pretrained: str, model_args: dict[str, Any]) -> str:
    """The model that runs a checkpoint, by its configuration."""
    if pretrained == TINY:
        return ATTENTION.model
    from transformers import AutoConfig

    known = {name: model_args[name] for name in HUB_OPTIONS if name in model_args}
    name = resolve_name(pretrained, ATTENTION)
    try:
        config = AutoConfig.from_pretrained(name, **known)
    except Exception as error:  # damaged files raise dozens of kinds
        raise unreachable(pretrained, error) from error
    kind = config.model_type
    own = next((one for one in (ATTENTION, MAMBA2) if kind in one.types), FAMILY)
    return own.model


def _record(response: object) -> ExitRecord:
    record = record_of(response)
    assert record is not None, "our models' responses carry their records"
    return record
