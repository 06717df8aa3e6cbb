"""All trained heads of one backbone: evaluation, training, saving and loading.

This module has the classifier and translator of each exit, their state over a batch, and the check
of the backbone.

An exit is identified by its *layer*: the layers run before it, 1..L-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from dynamax_lm.heads import backbone_check, store
from dynamax_lm.heads.classifiers import BY_TOKEN, Classifier
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.mamba2_block import Memory
from dynamax_lm.heads.mamba_depth import MambaDepth
from dynamax_lm.heads.translators import make_translator, without_autocast


@dataclass
class HeadsState:
    """State of classifiers while one batch is answered.

    Attributes:
        rows: rows of the batch.
        along: per exit, its state for each row, over the tokens checked there so far.
        depth: of each token of the current pass, for ``mamba_depth``.
    """

    rows: int
    along: dict[int, Memory] = field(default_factory=dict)
    depth: Memory | None = None


class ExitHeads(nn.Module, PyTorchModelHubMixin):
    """Classifiers and translators of every exit.

    >>> from dynamax_lm.heads.shipped import shipped_folder
    >>> heads = ExitHeads.from_pretrained(shipped_folder("tiny-mistral"))
    >>> len(heads.config.exit_layers) > 0
    True

    Args:
        config: of the heads. Weights start random, translators at the identity.
        card: text of the model card that is saved with them.
    """

    def __init__(self, config: HeadsConfig, card: str = "") -> None:
        super().__init__()
        self.config = config
        self.card = card
        names = [str(layer) for layer in config.exit_layers]
        self.translators = nn.ModuleDict({name: make_translator(config) for name in names})
        self.classifiers = nn.ModuleDict()
        self.depth: MambaDepth | None = None
        if config.classifier == "mamba_depth":
            self.depth = MambaDepth(config)
        elif config.has_classifier:
            kind = BY_TOKEN[config.classifier]
            self.classifiers = nn.ModuleDict({name: kind(config) for name in names})

    # -- checks ---------------------------------------------------------------------------------

    @property
    def along_tokens(self) -> bool:
        """Whether a confidence depends on the row's earlier tokens that reached the exit."""
        return self.config.classifier == "mamba"

    def new_state(self, rows: int) -> HeadsState:
        """An empty state for a batch of ``rows`` rows."""
        return HeadsState(rows)

    def begin(self, state: HeadsState, tokens: int, index: Tensor | None = None) -> None:
        """A pass of ``tokens`` tokens begins, or new tokens begin at ``index`` (n,) of it.

        State along depth is reset, of all tokens or of those.
        """
        if self.depth is None:
            return
        if index is None or state.depth is None:
            state.depth = self.depth.empty(tokens)
        else:
            state.depth.put(index, self.depth.empty(index.shape[0]))

    def forget(self, state: HeadsState, rows: Sequence[int]) -> None:
        """``rows`` of the batch have other requests from now on: their state is reset."""
        for layer, memory in state.along.items():
            empty = self._classifier(layer).empty(len(rows))
            if rows and empty is not None:
                memory.put(torch.tensor(list(rows)), empty)

    def take(self, state: HeadsState, rows: Tensor) -> dict[int, Memory]:
        """A copy of the state of ``rows`` (n,) along tokens, by exit."""
        return {layer: memory.of(rows) for layer, memory in state.along.items()}

    def put(
        self, state: HeadsState, rows: Tensor, taken: Mapping[int, Memory], places: Tensor
    ) -> None:
        """Restore ``rows`` (n,) from entries ``places`` (n,) of what :meth:`take` returned."""
        for layer, memory in taken.items():
            state.along[layer].put(rows, memory.of(places))

    def confidence(
        self, layer: int, hidden: Tensor, *, rows: Tensor, tokens: Tensor, state: HeadsState
    ) -> Tensor:
        """The calibrated probability that exiting is right.

        Args:
            layer: the exit.
            hidden: (n, D) of the tokens checked.
            rows: (n,) the batch's row of each; a row's tokens are adjacent and in order.
            tokens: (n,) which of the pass's tokens these are.
            state: of the batch; afterwards it includes these tokens.

        Returns:
            (n,) float32 in [0, 1].
        """
        with torch.no_grad(), without_autocast(hidden.device):
            logits = self._ask(layer, hidden, rows, tokens, state)
            scale, bias = self.config.calibrated(layer)
            return torch.sigmoid(scale * logits + bias)

    def _ask(
        self, layer: int, hidden: Tensor, rows: Tensor, tokens: Tensor, state: HeadsState
    ) -> Tensor:
        if self.depth is not None:
            assert state.depth is not None, "begin() comes before the first question of a pass"
            device = self.depth.mixer.conv_weight.device
            wide = hidden.to(device, torch.float32)
            found: Tensor = self.depth(layer, wide, tokens.to(device), state.depth)
            return found
        classifier = self._classifier(layer)
        if layer not in state.along and (empty := classifier.empty(state.rows)) is not None:
            state.along[layer] = empty
        device = next(classifier.parameters()).device
        wide = hidden.to(device, torch.float32)
        logits: Tensor = classifier(wide, rows.to(device), state.along.get(layer))
        return logits

    def _classifier(self, layer: int) -> Classifier:
        classifier = self.classifiers[str(layer)]
        assert isinstance(classifier, Classifier)
        return classifier

    def translate(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of the unembedding after a layer: (n, D) to (n, D), in the dtype of ``hidden``.

        Without a trained translator it is the hidden state itself (the logit lens).
        """
        if self.config.translator == "identity" or str(layer) not in self.translators:
            return hidden
        translator = self.translators[str(layer)]
        wide = hidden.to(next(translator.parameters()).device, torch.float32)
        with without_autocast(wide.device):
            translated: Tensor = translator(wide)
        return translated.to(hidden.device, hidden.dtype)

    # -- training -------------------------------------------------------------------------------

    def training_logits(
        self, hidden: Mapping[int, Tensor], masks: Mapping[int, Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Uncalibrated logits at every exit, in parallel, from an empty state.

        Args:
            hidden: (B, T, D) at each exit, by layer.
            masks: (B, T) bool at each exit, which tokens are checked there; ``None`` for all. The
                state of a Mamba classifier along tokens skips the others, as at run time.

        Returns:
            (B, T) float32 by layer; 0 where no token is checked.
        """
        wide = {layer: one.float() for layer, one in hidden.items()}
        if self.depth is None:
            return {
                layer: self._classifier(layer).logits(one, None if masks is None else masks[layer])
                for layer, one in wide.items()
            }
        found = self.depth.logits(wide)
        if masks is None:
            return found
        return {layer: torch.where(masks[layer], one, 0.0) for layer, one in found.items()}

    # -- cost -----------------------------------------------------------------------------------

    def classifier_flops(self, layer: int) -> int:
        """FLOPs of checking one token at an exit, norm included; 0 without a classifier."""
        if self.depth is not None:
            return self.depth.flops
        return self._classifier(layer).flops if self.classifiers else 0

    def translator_flops(self, layer: int) -> int:
        """FLOPs of translating one token at an exit."""
        flops: int = self.translators[str(layer)].flops  # type: ignore[assignment]
        return flops

    # -- the backbone ---------------------------------------------------------------------------

    def check_backbone(self, config: Any, unembedding: Tensor) -> backbone_check.BackboneMatch:
        """Refuse a backbone that these heads were not trained on.

        Args:
            config: the backbone's transformers configuration.
            unembedding: (V, D) its vocabulary projection's weight.

        Returns:
            How it was recognised.

        Raises:
            SettingError: with the difference.
        """
        return backbone_check.check_backbone(self.config, config, unembedding)

    # -- files ----------------------------------------------------------------------------------

    def amend(self, **fields: Any) -> None:
        """Set fields of the configuration: what is measured of these weights, or said of them."""
        self.config = replace(self.config, **fields)

    @torch.no_grad()
    def round_to(self, number_format: str) -> None:
        """Round every weight, so that it can be stored in this format; computing stays float32.

        Args:
            number_format: ``float32`` or ``bfloat16``.
        """
        self.amend(number_format=number_format, weights_sha256="")
        for one in self.state_dict().values():
            one.copy_(one.to(getattr(torch, number_format)))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        card: str | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> str | None:
        """Save as a folder of safetensors, configuration and card, whole or not at all.

        Args:
            save_directory: the folder; existing files of these names are replaced.
            card: text of the card; by default the present one.
            repo_id: where to push; by default the folder's name.
            push_to_hub: whether to push as well.
            **hub: for ``push_to_hub``.

        Returns:
            The address of the commit, if pushed.

        Raises:
            SettingError: the folder cannot be written.
        """
        folder = Path(save_directory)
        self.card = self.card if card is None else card
        self.config = store.write_folder(folder, self.config, self.state_dict(), self.card)
        if push_to_hub:
            pushed: str = self.push_to_hub(repo_id or folder.name, **hub)
            return pushed
        return None

    @classmethod
    def from_pretrained(cls, name: str | Path, **hub: Any) -> ExitHeads:  # type: ignore[override]
        """Load from a folder or the hub.

        Args:
            name: a folder, or a hub id.
            **hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ...

        Raises:
            SettingError: no such heads, or files that are truncated, changed or of another shape.
        """
        folder = store.find_folder(str(name), **hub)
        config = store.read_config(folder)
        return store.filled(lambda: cls(config, store.read_card(folder)), folder, config)
