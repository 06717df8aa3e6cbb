"""Whether trained modules belong to a backbone: its shape, and the digest of its unembedding."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.config import architecture_of
from dynamax_lm.heads.fingerprint import fingerprint


class OfBackbone(Protocol):
    """The configuration of what was trained on one backbone.

    Attributes:
        SUBJECT: what was trained, in the plural.
        REMEDY: what to do with another backbone.
    """

    SUBJECT: ClassVar[str]
    REMEDY: ClassVar[str]

    @property
    def backbone(self) -> str:
        """Its name."""
        ...

    @property
    def architecture(self) -> str:
        """By ``config.architecture_of``."""
        ...

    @property
    def n_layers(self) -> int:
        """L."""
        ...

    @property
    def width(self) -> int:
        """D."""
        ...

    @property
    def vocabulary(self) -> int:
        """V."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of its unembedding."""
        ...


def check_shape(trained: OfBackbone, config: Any) -> None:
    """Refuse a backbone by its configuration alone, before weights load.

    Args:
        trained: the configuration of heads or maps.
        config: the backbone's transformers configuration.

    Raises:
        SettingError: with the difference.
    """
    kind = architecture_of(config.model_type)
    theirs = (kind, config.num_hidden_layers, config.hidden_size, config.vocab_size)
    ours = (trained.architecture, trained.n_layers, trained.width, trained.vocabulary)
    names = ("architecture", "number of layers", "width", "vocabulary")
    for name, our, their in zip(names, ours, theirs, strict=True):
        if our != their:
            raise SettingError(
                f"{trained.SUBJECT} were trained on {trained.backbone}, whose {name} is {our}, and "
                f"this checkpoint's is {their}: {trained.REMEDY}"
            )


def check_backbone(trained: OfBackbone, config: Any, unembedding: Tensor) -> None:
    """Refuse a backbone that the modules were not trained on.

    Args:
        trained: the configuration of heads or maps.
        config: the backbone's transformers configuration.
        unembedding: (V, D) its vocabulary projection's weight.

    Raises:
        SettingError: with the difference.
    """
    check_shape(trained, config)
    theirs = fingerprint(unembedding)
    if theirs != trained.fingerprint:
        raise SettingError(
            f"{trained.SUBJECT} were trained on {trained.backbone}, whose unembedding has "
            f"fingerprint {trained.fingerprint[:12]}, and this checkpoint's has {theirs[:12]}: "
            f"{trained.REMEDY}"
        )
