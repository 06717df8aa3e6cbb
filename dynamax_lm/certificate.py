"""The certificate: which threshold keeps which risk, how sure that is, and where it holds.

Owns the record, its strict JSON form, and the question whether it speaks for a given run. It knows
no model, no lm-eval and no statistics; who makes one is `certify`, who shows one is `harness`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dynamax_lm.errors import SettingError

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = 1
"""Version of the JSON form, raised when readers of the old one would misread it."""

NOT_CERTIFIED = "not certified here"
_MOST_LISTED = 4


class CertificateError(SettingError):
    """A certificate that is not whole, or contradicts itself."""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A frozen record with a JSON form that has exactly its fields."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The record that `to_json` wrote.

        Raises:
            CertificateError: a field is missing, unknown, of another type, or contradicts others.
        """
        names = [f.name for f in fields(cls)]
        if not isinstance(data, Mapping):
            raise CertificateError(f"certificate: {_what(cls)} is not a JSON object")
        for name in sorted(set(names) ^ set(map(str, data))):
            fault = "lacks" if name in names else "has the unknown"
            raise CertificateError(f"certificate: {_what(cls)} {fault} field {name!r}")
        return cls(**{name: cls._read(name, data[name]) for name in names})

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        """One field's value from JSON; tuples arrive as lists."""
        del name
        return value


@dataclass(frozen=True, kw_only=True)
class Setting(_Record):
    """The model and exits that were tested: all that a certificate's word depends on but the task.

    Attributes:
        model: ``dynamax-mistral`` or ``dynamax-mamba``.
        pretrained: hub id or folder, or ``tiny``; behind it, between commas, further model
            arguments that can change an answer, such as ``revision=…`` or ``add_bos_token=True``.
        dtype: of the weights, such as ``torch.float32``.
        exit_layers: ascending.
        confidence: name of the measure.
        skipped_state: what skipped layers remember.
        heads: fingerprint of the trained heads, or ``None``.
    """

    model: str
    pretrained: str
    dtype: str
    exit_layers: tuple[int, ...]
    confidence: str
    skipped_state: str
    heads: str | None

    def __post_init__(self) -> None:
        for name in ("model", "pretrained", "dtype", "confidence", "skipped_state"):
            _check(isinstance(getattr(self, name), str), name, getattr(self, name), "not a string")
        _check(self.heads is None or isinstance(self.heads, str), "heads", self.heads, "no string")
        layers = self.exit_layers
        _check(layers != () and all(map(_whole, layers)), "exit_layers", layers, "no layers")

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return _tuple(name, value) if name == "exit_layers" else value


@dataclass(frozen=True, kw_only=True)
class TaskSetup(_Record):
    """How a task asks: whatever of it can change an answer, but the documents.

    Attributes:
        name: the task's name.
        version: of its configuration, as text.
        output_type: lm-eval's request type.
        num_fewshot: examples in front of each question.
        generation_kwargs: stops, lengths and sampling; ``None`` where nothing is generated.
        repeats: answers asked of each document.
        apply_chat_template: whether questions are put into the model's chat template.
        system_instruction: the system prompt, or ``None``.
    """

    name: str
    version: str
    output_type: str
    num_fewshot: int
    generation_kwargs: Mapping[str, Any] | None
    repeats: int
    apply_chat_template: bool
    system_instruction: str | None

    def __post_init__(self) -> None:
        for name in ("name", "version", "output_type"):
            _check(isinstance(getattr(self, name), str), name, getattr(self, name), "not a string")
        _check(_whole(self.num_fewshot, 0), "num_fewshot", self.num_fewshot, "not a count")
        _check(_whole(self.repeats, 1), "repeats", self.repeats, "not a count")
        options = self.generation_kwargs
        known = options is None or isinstance(options, Mapping)
        _check(known, "generation_kwargs", options, "not a JSON object")
        chat = self.apply_chat_template
        _check(isinstance(chat, bool), "apply_chat_template", chat, "not true or false")
        system = self.system_instruction
        _check(system is None or isinstance(system, str), "system_instruction", system, "no string")


@dataclass(frozen=True, kw_only=True)
class CertifiedTask(_Record):
    """A task that was tested, and its documents.

    Attributes:
        setup: how it asks.
        documents: how many were used; no two of them have the same contents.
        digest: SHA-256 over the sorted hashes of their contents.
        data: name of the file they came from, or ``None`` for the task's own data.
    """

    setup: TaskSetup
    documents: int
    digest: str
    data: str | None

    def __post_init__(self) -> None:
        _check(_whole(self.documents, 1), "documents", self.documents, "not a count")
        whole = isinstance(self.digest, str) and re.fullmatch(r"[0-9a-f]{64}", self.digest)
        _check(bool(whole), "digest", self.digest, "not a SHA-256")
        _check(self.data is None or isinstance(self.data, str), "data", self.data, "not a string")

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return TaskSetup.from_json(value) if name == "setup" else value


@dataclass(frozen=True, kw_only=True)
class TaskOutcome(_Record):
    """One task at one threshold.

    Attributes:
        task: its name.
        mean_loss: over its documents; at most 1, and negative where exits did better.
        p_value: of the hypothesis that the task's risk exceeds the asked one.
        flops_saved: mean over documents, net; may be negative.
    """

    task: str
    mean_loss: float
    p_value: float
    flops_saved: float

    def __post_init__(self) -> None:
        _check(isinstance(self.task, str), "task", self.task, "not a string")
        for name in ("mean_loss", "p_value", "flops_saved"):
            _check(_finite(getattr(self, name)), name, getattr(self, name), "not a finite number")
        _check(-1 <= self.mean_loss <= 1, "mean_loss", self.mean_loss, "outside [-1, 1]")
        _check(0 <= self.p_value <= 1, "p_value", self.p_value, "outside [0, 1]")


@dataclass(frozen=True, kw_only=True)
class GridPoint(_Record):
    """One tested threshold.

    Attributes:
        threshold: in [0, 1].
        outcomes: one a task.
    """

    threshold: float
    outcomes: tuple[TaskOutcome, ...]

    def __post_init__(self) -> None:
        _share("threshold", self.threshold, closed=True)
        _check(self.outcomes != (), "outcomes", [], "no task")

    @property
    def p_value(self) -> float:
        """Of the hypothesis that *some* task's risk exceeds the asked one: the largest of all."""
        return max(outcome.p_value for outcome in self.outcomes)

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name != "outcomes":
            return value
        return tuple(TaskOutcome.from_json(one) for one in _tuple(name, value))


@dataclass(frozen=True, kw_only=True)
class Certificate(_Record):
    """The outcome of one certification; a threshold of ``None`` says that nothing certified.

    Attributes:
        schema: version of this form.
        metric: what the risk is of: ``agreement``, ``consistency`` or a metric of the task.
        risk: the asked bound on the mean loss, in (0, 1).
        delta: the asked bound on the probability that the mean loss exceeds it all the same.
        threshold: the last of the grid that passed.
        grid: every threshold tested, safest first; the last one failed unless the grid ended.
        method: how p-values were computed.
        seed: of the order in which documents were looked at, and of the run.
        tasks: what was asked; the bound holds for each of them.
        setting: the model and exits.
        date: ISO 8601, UTC.
        version: of dynamax_lm.
    """

    schema: int = SCHEMA
    metric: str
    risk: float
    delta: float
    threshold: float | None
    grid: tuple[GridPoint, ...]
    method: str
    seed: int
    tasks: tuple[CertifiedTask, ...]
    setting: Setting
    date: str
    version: str

    def __post_init__(self) -> None:
        _check(self.schema == SCHEMA, "schema", self.schema, f"this version reads schema {SCHEMA}")
        for name in ("metric", "method", "date", "version"):
            _check(isinstance(getattr(self, name), str), name, getattr(self, name), "not a string")
        _share("risk", self.risk)
        _share("delta", self.delta)
        _check(_whole(self.seed, 0), "seed", self.seed, "not a whole number")
        _check(self.grid != (), "grid", [], "no threshold was tested")
        _check(self.tasks != (), "tasks", [], "no task")
        if self.threshold is not None:
            _share("threshold", self.threshold, closed=True)
        self._check_grid()

    def _check_grid(self) -> None:
        """The grid must be a fixed sequence, and the threshold the last of it that passed."""
        thresholds = [point.threshold for point in self.grid]
        falling = all(high > low for high, low in pairwise(thresholds))
        _check(falling, "grid", thresholds, "thresholds do not fall")
        names = [task.setup.name for task in self.tasks]
        for point in self.grid:
            tested = [outcome.task for outcome in point.outcomes]
            _check(tested == names, "grid", tested, f"the tasks are {names}")
        passed = [point.p_value <= self.delta for point in self.grid]
        _check(all(passed[:-1]), "grid", thresholds, "it goes on after a threshold that failed")
        last = self.certified_thresholds[-1] if any(passed) else None
        _check(self.threshold == last, "threshold", self.threshold, f"the last to pass is {last}")

    @property
    def certified_thresholds(self) -> tuple[float, ...]:
        """Every threshold that passed: the bound holds for all of them at once."""
        return tuple(p.threshold for p in self.grid if p.p_value <= self.delta)

    @property
    def documents(self) -> int:
        """All documents of all tasks."""
        return sum(task.documents for task in self.tasks)

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The certificate that `to_json` wrote.

        Raises:
            CertificateError: a field is missing, unknown, of another type, or contradicts others.
        """
        schema = data.get("schema") if isinstance(data, Mapping) else SCHEMA
        _check(schema == SCHEMA, "schema", schema, f"this version reads schema {SCHEMA}")
        return super().from_json(data)

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "grid":
            return tuple(GridPoint.from_json(one) for one in _tuple(name, value))
        if name == "tasks":
            return tuple(CertifiedTask.from_json(one) for one in _tuple(name, value))
        return Setting.from_json(value) if name == "setting" else value

    def dumps(self) -> str:
        """Strict JSON text."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str) -> Self:
        """The certificate in JSON text.

        Raises:
            CertificateError: not JSON, or not a certificate.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CertificateError(f"certificate: not JSON: {error}") from error
        return cls.from_json(data)


def why_not(
    certificate: Certificate, *, task: TaskSetup, setting: Setting, threshold: float
) -> str | None:
    """Why the certificate does not speak for a result, in one line; ``None`` where it does.

    Thresholds between two tested ones are not covered: exits change what later tokens see, so that
    the risk need not be monotone in the threshold.

    Args:
        certificate: what was certified.
        task: how the result's task asked.
        setting: the model and exits of the run.
        threshold: the run's.
    """
    if certificate.threshold is None:
        bound = f"{certificate.metric} risk {certificate.risk:g} at delta {certificate.delta:g}"
        return f"no threshold was certified for {bound}"
    if reason := _difference(certificate.setting, setting):
        return reason
    if threshold not in certificate.certified_thresholds:
        return f"threshold is {threshold:g}, certified are {_listed(certificate)}"
    setups = {one.setup.name: one.setup for one in certificate.tasks}
    if task.name not in setups:
        return f"the certificate is for {', '.join(sorted(setups))}"
    return _difference(setups[task.name], task)


def _listed(certificate: Certificate) -> str:
    """The certified thresholds, in as few words as a line of a table bears."""
    values = certificate.certified_thresholds
    if len(values) > _MOST_LISTED:
        return f"{len(values)} from {min(values):g} to {max(values):g}"
    return ", ".join(f"{value:g}" for value in values)


def _difference(certified: _Record, here: _Record) -> str | None:
    """The first field in which two records of one kind differ."""
    then, now = (json.loads(json.dumps(one.to_json())) for one in (certified, here))
    for name in then:
        if then[name] != now[name]:
            return f"{name} is {_short(now[name])}, certified for {_short(then[name])}"
    return None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, _Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def _what(cls: type) -> str:
    return "it" if cls is Certificate else f"its {cls.__name__}"


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    _check(isinstance(value, (list, tuple)), name, value, "not a list")
    return tuple(value)


def _check(right: bool, name: str, value: object, why: str) -> None:
    if not right:
        raise CertificateError(f"certificate: {name}={' '.join(repr(value).split())[:80]}: {why}")


def _share(name: str, value: object, *, closed: bool = False) -> None:
    inside = _finite(value) and (0 <= value <= 1 if closed else 0 < value < 1)  # type: ignore[operator]
    _check(inside, name, value, f"not a number in {'[0, 1]' if closed else '(0, 1)'}")


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
