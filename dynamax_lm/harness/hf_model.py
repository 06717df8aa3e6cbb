"""lm-eval's ``hf`` model with public names for the steps that a model with exits replaces.

The ``hf`` model has these steps as protected methods. A model of this package overrides the public
ones here, and never lm-eval's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lm_eval.models.huggingface import HFLM

from dynamax_lm.harness.processes import Processes

Scored = tuple[Any, list[int], list[int]]
"""A key or ``None``, the context's token ids, and the continuation's."""


def hf_parameters() -> Mapping[str, inspect.Parameter]:
    """The parameters of the ``hf`` model, without those of any name."""
    known = inspect.signature(HFLM.__init__).parameters
    return {name: one for name, one in known.items() if name not in {"self", "kwargs"}}


class HfModel(Processes):
    """The ``hf`` model, whose steps subclasses replace."""

    AUTO_MODEL_CLASS: Any

    def check_config(self, config: Any) -> bool:
        """Called before tokenizer and weights load.

        Args:
            config: the checkpoint's configuration.

        Returns:
            Whether lm-eval must be told that the model is causal.
        """
        raise NotImplementedError

    def check_tokenizer(self, source: Any) -> None:
        """Called before the tokenizer loads.

        Args:
            source: a name, or a tokenizer.
        """
        raise NotImplementedError

    def weights_loader(self) -> Any:
        """The class whose ``from_pretrained`` loads the weights."""
        raise NotImplementedError

    def score_tokens(self, requests: list[Scored], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is the greedy one."""
        raise NotImplementedError

    def probed_batch_size(self) -> int:
        """The batch size that the ``hf`` model finds by passes of full length."""
        return int(self._detect_batch_size())

    def _get_backend(self, config: Any, **kwargs: Any) -> None:
        if self.check_config(config):
            kwargs["backend"] = "causal"
        super()._get_backend(config, **kwargs)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        self.check_tokenizer(tokenizer or pretrained)
        super()._create_tokenizer(pretrained, tokenizer, **kwargs)

    def _create_model(self, *args: Any, **kwargs: Any) -> None:
        auto_class = self.AUTO_MODEL_CLASS
        self.AUTO_MODEL_CLASS = self.weights_loader()
        try:
            super()._create_model(*args, **kwargs)
        finally:
            self.AUTO_MODEL_CLASS = auto_class

    def _loglikelihood_tokens(
        self, requests: list[Scored], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        del override_bs
        return self.score_tokens(requests, disable_tqdm)
