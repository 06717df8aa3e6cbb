"""Loading a checkpoint whole: a tensor that its files lack is refused, not drawn at random.

transformers initialises missing and mismatched tensors with random numbers and warns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.described_size import check_described_size

_MOST_NAMED = 3


class WholeModel:
    """One of transformers' auto classes, whose ``from_pretrained`` refuses incomplete files.

    Args:
        auto_class: such as ``AutoModelForCausalLM``.
        config: transformers' configuration of the checkpoint.
    """

    def __init__(self, auto_class: Any, config: Any) -> None:
        self._auto_class = auto_class
        self._config = config

    def from_pretrained(self, name: Any, **options: Any) -> Any:
        """The model.

        Raises:
            SettingError: its files lack a tensor, have it in another shape, or hold far fewer
                numbers than the configuration describes.
        """
        check_described_size(name, self._config)
        model, info = self._auto_class.from_pretrained(name, output_loading_info=True, **options)
        check_loaded(name, info)
        return model


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
