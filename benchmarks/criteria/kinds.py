"""The classifiers that are compared, and the step of the thresholds that are tried.

Nothing heavy is imported here: the command line names both in its help.
"""

from __future__ import annotations

from typing import NamedTuple

STEP = 0.2
"""Of the log-odds of a threshold."""

_SEED = ", seed "


class Kind(NamedTuple):
    """A classifier to compare.

    Attributes:
        classifier: ``linear``, ``ffn``, ``mamba`` or ``mamba_depth``.
        width: ``narrow`` or ``full``.
    """

    classifier: str
    width: str

    @property
    def name(self) -> str:
        """As tables print it."""
        return (
            self.classifier if self.classifier == "linear" else f"{self.classifier}, {self.width}"
        )

    def seeded(self, seed: int) -> str:
        """As tables print it where there are heads of several seeds."""
        return f"{self.name}{_SEED}{seed}"

    @property
    def folder(self) -> str:
        """As folders are called."""
        return f"{self.classifier}-{self.width}"


KINDS = (
    Kind("linear", "full"),
    Kind("ffn", "narrow"),
    Kind("ffn", "full"),
    Kind("mamba", "narrow"),
    Kind("mamba", "full"),
    Kind("mamba_depth", "narrow"),
    Kind("mamba_depth", "full"),
)


def kind_of(rule: str) -> str:
    """The kind of a head's name, without the seed."""
    return rule.partition(_SEED)[0]
