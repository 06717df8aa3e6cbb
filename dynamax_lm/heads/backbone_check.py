"""Whether trained modules belong to a backbone: its shape, and the digest of its unembedding."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.config import architecture_of
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.of_backbone import OfBackbone


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


def check_named(trained: OfBackbone, name: str, config: Any, unembedding: Tensor) -> None:
    """The same for modules that a setting names; a quantised unembedding cannot be compared.

    Args:
        trained: the configuration of heads or maps.
        name: as the setting gives it.
        config: the backbone's transformers configuration.
        unembedding: (V, D) its vocabulary projection's weight.

    Raises:
        SettingError: they are of another backbone, or that cannot be told.
    """
    if not unembedding.dtype.is_floating_point:
        setting = trained.ARGUMENT
        raise SettingError(
            f"{setting}={name}: the checkpoint's unembedding is quantised, so that its "
            f"fingerprint cannot be checked; use {setting}=none"
        )
    check_backbone(trained, config, unembedding)
