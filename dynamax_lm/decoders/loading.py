"""Loading a checkpoint whole: a tensor that its files lack is refused, not drawn at random.

transformers initialises missing and mismatched tensors with random numbers and warns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.described_size import check_described_size
from dynamax_lm.decoders.description import text_config

_MOST_NAMED = 3


def auto_class_of(config: Any) -> Any:
    """The auto class of transformers that loads a supported checkpoint with all of its tensors.

    ``AutoModelForCausalLM`` knows some multimodal wrappers only.

    Args:
        config: transformers' configuration of the checkpoint.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    wrapped = text_config(config) is not config
    return AutoModelForImageTextToText if wrapped else AutoModelForCausalLM


class WholeModel:
    """An auto class of transformers, whose ``from_pretrained`` refuses incomplete files.

    Args:
        config: transformers' configuration of the checkpoint.
    """

    def __init__(self, config: Any) -> None:
        self._auto_class = auto_class_of(config)
        self._config = config

    def from_pretrained(self, name: Any, **options: Any) -> Any:
        """The model.

        Raises:
            SettingError: its files lack a tensor, have it in another shape, or hold far fewer
                numbers than the configuration describes.
        """
        check_described_size(name, self._config, self._auto_class)
        model, info = self._auto_class.from_pretrained(name, output_loading_info=True, **options)
        check_loaded(name, info)
        keep_own_head(model)
        return model


def keep_own_head(model: Any) -> None:
    """Say in a model's configuration that its vocabulary head is no embedding, where it is none.

    A configuration may say that the two are tied, though the files have both: by default
    transformers' ``Mistral3Config`` does, and most published checkpoints of it have a head.
    ``from_pretrained`` leaves such a head alone, but a later ``tie_weights()``, as in lm-eval's
    ``hf`` model, would replace it by the embedding.

    Args:
        model: transformers' loaded model.
    """
    head = getattr(model.get_output_embeddings(), "weight", None)
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and head is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False


def check_loaded(name: object, info: Mapping[str, Any]) -> None:
    """Refuse a model some of whose numbers are random.

    Args:
        name: of the checkpoint.
        info: transformers' ``output_loading_info``.

    Raises:
        SettingError: names the tensors.
    """
    if missing := sorted(info.get("missing_keys") or ()):
        raise SettingError(
            f"pretrained={name!r}: its files lack {_listed(missing)}, which would be random "
            f"numbers; download or save it again"
        )
    if mismatched := sorted(str(one[0]) for one in info.get("mismatched_keys") or ()):
        raise SettingError(
            f"pretrained={name!r}: {_listed(mismatched)} has another shape than its config.json "
            f"says, and would be random numbers; correct the configuration"
        )


def _listed(names: Collection[str]) -> str:
    some = ", ".join(list(names)[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{some} and {more} more" if more > 0 else some
