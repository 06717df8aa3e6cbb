"""The configuration of trained heads: shape, backbone, training, calibration and certificate.

This is ``config.json`` of a heads folder. A missing, extra or invalid field is refused in one line,
so that a configuration is never misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.validation import NOT_EMPTY, Count, one_of
from dynamax_lm.heads.of_backbone import OfBackbone

if TYPE_CHECKING:
    from dynamax_lm.heads.unembedding_sample import UnembeddingSample

SCHEMA = 1
"""Version of the fields below."""

CLASSIFIERS = ("none", "linear", "ffn", "mamba", "mamba_depth")
TRANSLATORS = ("identity", "low_rank", "affine")
_ARCHITECTURES = {"mistral": "attention", "llama": "attention"}
"""By ``model_type``, where the name in a configuration is another."""
LABELS = ("top1", "top_k")
NUMBER_FORMATS = ("float32", "bfloat16")
"""Of the weights' file; heads compute in float32."""


def architecture_of(model_type: str) -> str:
    """``attention`` for Mistral and Llama, else transformers' ``model_type``."""
    return _ARCHITECTURES.get(model_type, model_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsConfig(OfBackbone):
    """Everything about trained heads that is not a tensor.

    Attributes:
        exit_layers: layers run before each exit, ascending, each in 1..L-1.
        classifier: ``linear``, ``ffn``, ``mamba``, ``mamba_depth``, or ``none`` for translators
            alone.
        classifier_width: width after the down-projection; D for no projection.
        ffn_width: inner width of ``ffn``; ignored elsewhere, as the four sizes below are outside
            the Mamba kinds.
        state_size: S, SSM state elements per inner channel.
        head_dim: P, width of an SSM head; divides ``expand * classifier_width``.
        expand: inner channels per channel of ``classifier_width``.
        conv_kernel: K, width of the convolution.
        translator: ``identity``, ``low_rank`` or ``affine``.
        translator_rank: of ``low_rank``; ignored elsewhere.
        label: what the classifier was trained to predict: that the exit's most likely token is full
            depth's (``top1``), or is among full depth's ``label_k`` most likely (``top_k``).
        label_k: k of ``top_k``; 1 for ``top1``.
        loss: settings of the loss.
        data: description, files, tokens.
        training: steps, seed, and other settings of the training.
        calibration: per exit (its layer as text) ``{"scale": a, "bias": b}``: the confidence is
            sigmoid(a * logit + b). A missing exit has a = 1, b = 0.
        reliability: rows of the reliability table.
        certificate: of a threshold, or ``None``.
        weights_sha256: of ``model.safetensors``; set when the heads are saved, empty before.
        number_format: of the numbers in ``model.safetensors``, ``float32`` or ``bfloat16``.
        unembedding_sample: as :mod:`dynamax_lm.heads.unembedding_sample` writes it, or ``None``:
            then a backbone is recognised by its fingerprint alone.
        schema: version of these fields.

    Raises:
        SettingError: an invalid value.
    """

    SUBJECT: ClassVar[str] = "heads"
    ARGUMENT: ClassVar[str] = "heads"
    REMEDY: ClassVar[str] = "train heads for it, or use heads=none"
    RENEW: ClassVar[str] = "train them again"
    SCHEMA: ClassVar[int] = SCHEMA
    DESCRIPTIVE: ClassVar[tuple[str, ...]] = (
        "certificate",
        "reliability",
        "data",
        "training",
        "loss",
        "backbone",
        "number_format",
        "unembedding_sample",
    )
    LATER: ClassVar[tuple[str, ...]] = ("number_format", "unembedding_sample")

    exit_layers: Annotated[tuple[int, ...], NOT_EMPTY]
    classifier: Annotated[str, one_of(*CLASSIFIERS)]
    classifier_width: Count
    ffn_width: int = 0
    state_size: int = 16
    head_dim: int = 8
    expand: int = 2
    conv_kernel: int = 4
    translator: Annotated[str, one_of(*TRANSLATORS)] = "identity"
    translator_rank: int = 0
    label: Annotated[str, one_of(*LABELS)] = "top1"
    label_k: Count = 1
    loss: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reliability: tuple[Mapping[str, Any], ...] = ()
    certificate: Mapping[str, Any] | None = None
    weights_sha256: str = ""
    number_format: Annotated[str, one_of(*NUMBER_FORMATS)] = "float32"
    unembedding_sample: Mapping[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        self._check_kinds(self.schema)
        self._check_exits()
        self._check_sizes()
        self._check_calibration()
        self._check_sample()

    def _check_exits(self) -> None:
        exits = self.exit_layers
        if list(exits) != sorted(set(exits)):
            raise self._bad("exit_layers", list(exits), "ascending layers, each once")
        if exits[0] < 1 or exits[-1] >= self.n_layers:
            raise self._bad("exit_layers", list(exits), f"exits lie in 1..{self.n_layers - 1}")

    def _check_sizes(self) -> None:
        narrow = self.classifier_width
        if narrow > self.width:
            raise self._bad(
                "classifier_width", narrow, f"at most the backbone's width, {self.width}"
            )
        if self.classifier == "linear" and narrow != self.width:
            why = f"linear is one layer over the whole hidden state; its width is {self.width}"
            raise self._bad("classifier_width", narrow, why)
        if self.classifier == "ffn" and self.ffn_width < 1:
            raise self._bad("ffn_width", self.ffn_width, "at least 1 for classifier ffn")
        if self.classifier in {"mamba", "mamba_depth"}:
            for name in ("state_size", "head_dim", "expand", "conv_kernel"):
                if getattr(self, name) < 1:
                    raise self._bad(name, getattr(self, name), f"at least 1 for {self.classifier}")
            if self.expand * narrow % self.head_dim:
                why = f"must divide expand * classifier_width = {self.expand * narrow}"
                raise self._bad("head_dim", self.head_dim, why)
        self._check_rank(self.translator, self.translator_rank)

    def _check_calibration(self) -> None:
        known = {str(layer) for layer in self.exit_layers}
        for layer, pair in self.calibration.items():
            if layer not in known:
                raise self._bad("calibration", layer, f"no exit of these heads: {list(known)}")
            if set(pair) != {"scale", "bias"}:
                raise self._bad("calibration", pair, 'each exit has {"scale": a, "bias": b}')
            if pair["scale"] <= 0:
                why = "above 0, so that confidence rises with the classifier's logit"
                raise self._bad(f"calibration {layer} scale", pair["scale"], why)

    def _check_sample(self) -> None:
        try:
            self.sample()
        except SettingError as error:
            raise self._bad("unembedding_sample", self.unembedding_sample, str(error)) from error

    def stored_format(self) -> str:
        """The number format of the tensors' file."""
        return self.number_format

    def sample(self) -> UnembeddingSample | None:
        """The recorded weights of the unembedding, if any."""
        if self.unembedding_sample is None:
            return None
        from dynamax_lm.heads.unembedding_sample import UnembeddingSample

        return UnembeddingSample.from_json(self.unembedding_sample)

    @property
    def has_classifier(self) -> bool:
        """Whether these heads support ``confidence=head``."""
        return self.classifier != "none"

    def calibrated(self, layer: int) -> tuple[float, float]:
        """(a, b) of the exit after ``layer`` layers: confidence = sigmoid(a * logit + b)."""
        pair = self.calibration.get(str(layer), {"scale": 1.0, "bias": 0.0})
        return float(pair["scale"]), float(pair["bias"])
