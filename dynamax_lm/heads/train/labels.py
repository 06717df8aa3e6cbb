"""Labels of classifiers: whether exiting at their exit is right."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dynamax_lm.common.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor


def read_label(label: str) -> int:
    """The k of a label's name: ``top1`` is 1, ``top5`` is 5.

    Raises:
        SettingError: another name, or a k of 0.
    """
    match = re.fullmatch(r"top[-_]?(\d{1,4})", label.strip())
    if match is None or int(match[1]) < 1:
        raise SettingError(
            f"--label={label}: give top1 (the exit's token equals full depth's) or topK, such as "
            f"top5 (it is among full depth's 5 likeliest)"
        )
    return int(match[1])


def agreement(exit_logits: Tensor, full_logits: Tensor, top_k: int = 1) -> Tensor:
    """(n,) bool: whether the exit's likeliest token is among full depth's ``top_k`` likeliest.

    With 1 it is agreement; more is DYNAMAX's relaxation (arXiv 2504.20922), whose labels are more
    balanced and whose probabilities are no longer those of agreement.

    Args:
        exit_logits: (n, V) of the exit, translated if it has a translator.
        full_logits: (n, V) of full depth at the same tokens.
        top_k: 1..V.
    """
    token = exit_logits.argmax(-1)
    if top_k == 1:
        return token == full_logits.argmax(-1)
    likeliest = full_logits.topk(min(top_k, full_logits.shape[-1]), dim=-1).indices
    return (likeliest == token[:, None]).any(-1)
