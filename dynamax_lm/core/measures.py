"""What is known of each confidence measure without asking it: facts, and the one registry.

Owns the registry that settings, ledger, thresholds and reports read. It imports no torch, and does
not know files or how a measure is computed; ``core.confidence`` has the classes of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

Reads = Literal["logits", "hidden", "heads"]
"""``logits``: the check makes a vocabulary projection, which the emission then uses; ``hidden``:
hidden states alone, so that only tokens that leave are projected; ``heads``: a trained classifier
over hidden states, whose FLOPs the heads say themselves."""


class Check(NamedTuple):
    """One check of one token, as far as its cost may depend on it.

    Attributes:
        exit: which exit is asked, from 0.
        width: D, elements of the residual stream.
        vocabulary: V.
    """

    exit: int
    width: int
    vocabulary: int


def free(check: Check) -> int:
    """No FLOPs beside those of what is read."""
    del check
    return 0


def continuous(exits: int) -> int:
    """Any value in [0, 1]."""
    del exits
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureFacts:
    """A measure as the ledger, the settings and a report need to know it.

    Attributes:
        name: as ``confidence`` takes it; left out by measures from outside, which are named after
            their file or entry point.
        reads: what a check reads; decides whether a vocabulary projection is billed with it.
        flops: net FLOPs of one check of one token, beside those of what it reads.
        least_exits: exits without which it says nothing.
        needs_target: whether it compares with an exact full-depth token: a ceiling, never a result.
        steps: by the number of exits, n where the confidence takes only the values k / n; 0 where
            it takes any.
        outside: whether it comes from outside the package.
    """

    name: str = ""
    reads: Reads
    flops: Callable[[Check], int] = free
    least_exits: int = 1
    needs_target: bool = False
    steps: Callable[[int], int] = continuous
    outside: bool = False

    def __post_init__(self) -> None:
        if self.reads not in get_args(Reads):
            raise ValueError(f"reads={self.reads!r} is none of {', '.join(get_args(Reads))}")
        if isinstance(self.least_exits, bool) or self.least_exits < 1:
            raise ValueError(f"least_exits={self.least_exits!r} is at least 1")

    def record(self, exits: int, width: int, vocabulary: int) -> dict[str, Any]:
        """What a results file says of a measure from outside, from which its cost follows."""
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
        """The facts of a results file; they hold for the exits that it names.

        Raises:
            ValueError: a value is missing, or none that :meth:`record` writes.
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
    """Three dot products; the first exit has nothing to compare."""
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
"""No exit is asked, and none is billed: under a rule that decides without a confidence."""

BUILT_IN = {
    facts.name: facts for facts in (TOP_PROB, MARGIN, ENTROPY, SATURATION, PATIENCE, ORACLE, HEAD)
}
"""The measures of the package, by name."""

_FACTS: dict[str, MeasureFacts] = BUILT_IN | {NOTHING.name: NOTHING}
_CLASSES: dict[str, type[Any]] = {}
_Class = TypeVar("_Class", bound="type[Any]")


def register(facts: MeasureFacts, made_by: type[Any]) -> None:
    """Make a measure known by its facts' name, which is then asked through ``made_by``.

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
    """Register the decorated class under ``facts``, which it carries as its own."""

    def add(made_by: _Class) -> _Class:
        made_by.facts = facts
        register(facts, made_by)
        return made_by

    return add


def facts_of(measure: str | MeasureFacts) -> MeasureFacts:
    """The facts of a registered measure, by its name.

    Raises:
        ValueError: no such measure is registered.
    """
    if isinstance(measure, MeasureFacts):
        return measure
    if measure not in _FACTS:
        raise ValueError(f"confidence={measure!r} is none of {', '.join(sorted(_FACTS))}")
    return _FACTS[measure]


def class_of(name: str) -> type[Any]:
    """The class that a measure is asked through.

    Raises:
        ValueError: no such measure is registered.
    """
    if name not in _CLASSES:
        raise ValueError(f"confidence={name!r} is none of {', '.join(sorted(_CLASSES))}")
    return _CLASSES[name]
