"""Facts of each confidence measure (name, inputs, cost, requirements), and their registry.

Settings, ledger, thresholds and reports read the registry, so it imports no torch;
``core.confidence`` computes the measures of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from dynamax_lm.core.looks import FULL, Look, split_look

Reads = Literal["logits", "hidden", "heads"]
"""``logits``: the check computes a vocabulary projection, which the emission reuses, or a cheap
look at the vocabulary (``core.looks``); ``hidden``: hidden states alone, so that only tokens that
exit are projected; ``heads``: a trained classifier over hidden states, whose FLOPs come from the
heads' configuration."""


class Check(NamedTuple):
    """One check of one token, as far as its cost may depend on it.

    Attributes:
        exit: which exit is checked, from 0.
        width: D, elements of the residual stream.
        vocabulary: V.
    """

    exit: int
    width: int
    vocabulary: int


def free(check: Check) -> int:
    """No FLOPs in addition to those of the inputs."""
    del check
    return 0


def continuous(exits: int) -> int:
    """Any value in [0, 1]."""
    del exits
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureFacts:
    """Facts of a measure that the ledger, the settings and reports use.

    >>> facts = MeasureFacts(reads="hidden", least_exits=2)  # compares two exits' hidden states
    >>> facts.needs_target
    False

    Attributes:
        name: as ``confidence`` takes it; omitted by measures from outside the package, which are
            named after their file or entry point.
        reads: inputs of a check; determines whether a vocabulary projection is billed with it.
        flops: net FLOPs of one check of one token, in addition to those of its inputs.
        least_exits: the smallest number of exits for which it is defined.
        needs_target: whether it compares with full depth's token: an upper bound, never a result.
        steps: by the number of exits, n where the confidence takes only the values k / n; 0 where
            it takes any value.
        outside: whether it comes from outside the package.
        look: how the logits that it reads are computed.
    """

    name: str = ""
    reads: Reads
    flops: Callable[[Check], int] = free
    least_exits: int = 1
    needs_target: bool = False
    steps: Callable[[int], int] = continuous
    outside: bool = False
    look: Look = FULL

    def __post_init__(self) -> None:
        if self.reads not in get_args(Reads):
            raise ValueError(f"reads={self.reads!r} is none of {', '.join(get_args(Reads))}")
        if isinstance(self.least_exits, bool) or self.least_exits < 1:
            raise ValueError(f"least_exits={self.least_exits!r} is at least 1")
        if self.look != FULL and self.reads != "logits":
            raise ValueError(f"{self.name} reads no logits, and look={self.look.name} gives some")

    def under(self, look: Look) -> MeasureFacts:
        """The same measure over the logits of another look; its name stays.

        Raises:
            ValueError: it reads no logits.
        """
        least = max(self.least_exits, look.least_exits)
        return replace(self, look=look, least_exits=least)

    def record(self, exits: int, width: int, vocabulary: int) -> dict[str, Any]:
        """The entry of a results file for a measure from outside, sufficient to bill it."""
        checks = [self.flops(Check(exit, width, vocabulary)) for exit in range(exits)]
        return {
            "name": self.name,
            "reads": self.reads,
            "flops": checks,
            "least_exits": self.least_exits,
            "needs_target": self.needs_target,
            "steps": self.steps(exits),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> MeasureFacts:
        """The facts from a results file; valid for the exits that it names.

        Raises:
            ValueError: a value is missing, or is not one that :meth:`record` writes.
        """
        checks, steps = record.get("flops"), record.get("steps")
        counts = (*checks, steps) if isinstance(checks, list) else (None,)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("flops and steps are counts")
        known: Sequence[int] = checks or []

        def flops(check: Check) -> int:
            if check.exit >= len(known):
                raise ValueError(
                    f"the record has {len(known)} exits, and {check.exit + 1} are evaluated"
                )
            return known[check.exit]

        return cls(
            name=str(record.get("name")),
            reads=record.get("reads", ""),
            flops=flops,
            least_exits=record.get("least_exits", 1),
            needs_target=bool(record.get("needs_target")),
            steps=lambda exits: int(steps or 0),
            outside=True,
        )


def _cosine(check: Check) -> int:
    """Three dot products; none at the first exit, which has no previous one."""
    return 6 * check.width if check.exit else 0


TOP_PROB = MeasureFacts(name="top_prob", reads="logits")
MARGIN = MeasureFacts(name="margin", reads="logits")
ENTROPY = MeasureFacts(name="entropy", reads="logits")
SATURATION = MeasureFacts(name="saturation", reads="hidden", flops=_cosine)
PATIENCE = MeasureFacts(
    name="patience", reads="logits", least_exits=2, steps=lambda exits: exits - 1
)
ORACLE = MeasureFacts(name="oracle", reads="hidden", needs_target=True, steps=lambda exits: 1)
HEAD = MeasureFacts(name="head", reads="heads")

NOTHING = MeasureFacts(name="none", reads="hidden")
"""No exit is checked and no check is billed: for rules that decide without a confidence."""

BUILT_IN = {
    facts.name: facts for facts in (TOP_PROB, MARGIN, ENTROPY, SATURATION, PATIENCE, ORACLE, HEAD)
}
"""The measures of the package, by name."""

_FACTS: dict[str, MeasureFacts] = BUILT_IN | {NOTHING.name: NOTHING}
_CLASSES: dict[str, type[Any]] = {}
_Class = TypeVar("_Class", bound="type[Any]")


def register(facts: MeasureFacts, made_by: type[Any]) -> None:
    """Register a measure by the name in its facts; ``made_by`` computes it.

    Args:
        facts: with a name that no other measure has.
        made_by: a class of ``core.confidence.Measure``'s interface.

    Raises:
        ValueError: the name is taken, or empty.
    """
    if not facts.name or _FACTS.get(facts.name, facts) is not facts:
        raise ValueError(f"a measure needs a name of its own, and {facts.name!r} is none")
    _FACTS[facts.name], _CLASSES[facts.name] = facts, made_by


def implements(facts: MeasureFacts) -> Callable[[_Class], _Class]:
    """Register the decorated class under ``facts``, and set them as its attribute."""

    def add(made_by: _Class) -> _Class:
        made_by.facts = facts
        register(facts, made_by)
        return made_by

    return add


def facts_of(measure: str | MeasureFacts) -> MeasureFacts:
    """The facts of a registered measure, by its name, which may end in a look's.

    Raises:
        ValueError: no such measure is registered, or it reads no logits and has a look.
    """
    if isinstance(measure, MeasureFacts):
        return measure
    if measure in _FACTS:
        return _FACTS[measure]
    name, look = split_look(measure)
    if name not in _FACTS:
        raise _unknown(measure, _FACTS)
    return replace(_FACTS[name].under(look), name=measure)


def class_of(name: str) -> type[Any]:
    """The class that computes a measure, whatever its look.

    Raises:
        ValueError: no such measure is registered.
    """
    name, _ = split_look(name)
    if name not in _CLASSES:
        raise _unknown(name, _CLASSES)
    return _CLASSES[name]


def _unknown(name: str, known: Iterable[str]) -> ValueError:
    """The error line for a name that no registered measure has."""
    return ValueError(
        f"confidence={name!r} is none of {', '.join(sorted(known))}; for a class of a file or an "
        f"installed package, give the name that dynamax_lm.find_measure({name!r}) returns"
    )
