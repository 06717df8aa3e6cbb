"""Whether trained modules belong to a backbone: its shape, and its unembedding.

The unembedding is recognised by the digest of its signs, or, where a sample of it is recorded, as a
copy that differs by quantisation.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple

from torch import Tensor

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.config import architecture_of
from dynamax_lm.heads.fingerprint import fingerprint
from dynamax_lm.heads.of_backbone import OfBackbone

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings


class BackboneMatch(NamedTuple):
    """How a backbone was recognised.

    Attributes:
        kind: ``equal`` by the signs of its unembedding, or ``rounded``: a copy that differs by
            quantisation.
        difference: relative difference of the sampled weights; ``None`` without a sample.
    """

    kind: Literal["equal", "rounded"]
    difference: float | None


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


def check_backbone(trained: OfBackbone, config: Any, unembedding: Tensor) -> BackboneMatch:
    """Refuse a backbone that the modules were not trained on.

    Args:
        trained: the configuration of heads or maps.
        config: the backbone's transformers configuration.
        unembedding: (V, D) its vocabulary projection's weight.

    Returns:
        How it was recognised.

    Raises:
        SettingError: with the difference.
    """
    check_shape(trained, config)
    sample = trained.sample()
    found = None if sample is None else sample.difference(unembedding)
    difference = None if found is None else found.relative
    theirs = fingerprint(unembedding)
    if theirs == trained.fingerprint:
        return BackboneMatch("equal", difference)
    if found is None or not found.within:
        raise SettingError(
            f"{trained.SUBJECT} were trained on {trained.backbone}, whose unembedding has "
            f"fingerprint {trained.fingerprint[:12]}, and this checkpoint's has {theirs[:12]}: "
            f"{trained.REMEDY}"
        )
    return BackboneMatch("rounded", difference)


def check_named(trained: OfBackbone, name: str, config: Any, unembedding: Tensor) -> BackboneMatch:
    """The same for modules that a setting names; a quantised unembedding cannot be compared.

    Args:
        trained: the configuration of heads or maps.
        name: as the setting gives it.
        config: the backbone's transformers configuration.
        unembedding: (V, D) its vocabulary projection's weight.

    Returns:
        How the backbone was recognised; a rounded one is logged in one line.

    Raises:
        SettingError: they are of another backbone, or that cannot be told.
    """
    if not unembedding.dtype.is_floating_point:
        setting = trained.ARGUMENT
        raise SettingError(
            f"{setting}={name}: the checkpoint's unembedding is quantised, so that its "
            f"fingerprint cannot be checked; use {setting}=none"
        )
    match = check_backbone(trained, config, unembedding)
    if match.kind == "rounded":
        _log.warning(
            "%s=%s: this checkpoint's weights differ from those that they were trained on as by "
            "quantisation (%.2g %% in a sample of the unembedding); they were measured on those",
            trained.ARGUMENT,
            name,
            100 * (match.difference or 0.0),
        )
    return match
