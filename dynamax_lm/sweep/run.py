"""Runs the points of a sweep with one loaded model.

Finished points are kept. The others are derived from a shared full-depth pass, or run from shared
prompt states and full-depth answers, several thresholds at once where that is faster. Each point is
written before the next begins.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dynamax_lm.common.durations import announcer
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.identity import digest
from dynamax_lm.common.outputs import write_json
from dynamax_lm.harness.command_contents import of_command, of_tasks
from dynamax_lm.harness.command_line import Command
from dynamax_lm.harness.naming import name_run
from dynamax_lm.reuse.origins import Origins
from dynamax_lm.reuse.reuse_runner import ReuseRunner
from dynamax_lm.settings import FIXED_AT_LOADING, OUR_NAMES, ExitSettings, parse_settings
from dynamax_lm.sweep.folder import PointFolder
from dynamax_lm.sweep.grid import Point, show

if TYPE_CHECKING:
    from dynamax_lm.models.exit_model import DynamaxLM

How = Literal["run", "rows", "derived", "partly", "kept"]
"""``run``: on its own; ``rows``: some requests or all together with other thresholds, as rows of
one batch; ``derived``: every answer from one full-depth pass that all thresholds share; ``partly``:
some of them, or their beginnings up to a first disagreement; ``kept``: finished before.
"""

_CHANGEABLE = OUR_NAMES - FIXED_AT_LOADING


@dataclass(frozen=True)
class Outcome:
    """One finished point of a sweep.

    Attributes:
        point: its setting.
        folder: where its files are.
        how: how its answers were computed.
        seconds: that it took; 0 for a kept point.
        results: lm-eval's results.
    """

    point: Point
    folder: Path
    how: How
    seconds: float
    results: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A command and its grid.

    Attributes:
        command: what to evaluate.
        points: the settings, in order.
        output: the folder of this model's points.
        log_samples: whether samples are written.
        memory_bytes: size limit of prompt states kept between points.
        tokens_at_once: largest number of tokens in a pass with several thresholds.
    """

    command: Command
    points: Sequence[Point]
    output: Path
    log_samples: bool
    memory_bytes: int
    tokens_at_once: int

    def check(self) -> None:
        """Check settings before any weights load.

        Raises:
            SettingError: an invalid value of this package's arguments.
        """
        for point in self.points:
            varied = {name for other in self.points for name, _ in other.settings}
            if "heads" in varied - set(self.command.model_args) - dict(point.settings).keys():
                raise SettingError(
                    "--point: where one point names heads, the others need theirs; give heads in "
                    "--model_args too"
                )
            merged = point.model_args(self.command.model_args)
            parse_settings({name: merged[name] for name in OUR_NAMES & set(merged)})

    @cached_property
    def tasks(self) -> dict[str, str]:
        """The digest of each task as rendered.

        Raises:
            SettingError: a task cannot be loaded.
        """
        return of_tasks(self.command)

    def run(self, say: Callable[[str], None]) -> list[Outcome]:
        """Run unfinished points, in order, and record all points in ``sweep.json``.

        Args:
            say: called with one line of progress for each point.
        """
        outcomes: list[Outcome] = []
        for _, some in groupby(self.points, key=_loading):
            for outcome in self._with_one_model(list(some), say):
                outcomes.append(outcome)
                took = f"{outcome.how}, {outcome.seconds:.1f} s"
                if outcome.how == "kept":
                    took = "finished before"
                say(f"[{len(outcomes)}/{len(self.points)}] {outcome.point.name}: {took}")
                self._note(outcomes)
        return outcomes

    def _with_one_model(
        self, points: Sequence[Point], say: Callable[[str], None]
    ) -> Iterator[Outcome]:
        """Points that differ only in this package's arguments, which share one loaded model."""
        lm: DynamaxLM | None = None
        runner = ReuseRunner(self.memory_bytes, self.tokens_at_once)
        folders = [self._folder(point) for point in points]
        finished = [folder.finished() for folder in folders]
        wanted: list[ExitSettings] = []
        for number, (point, folder) in enumerate(zip(points, folders, strict=True)):
            if (results := finished[number]) is not None:
                yield Outcome(point, folder.path, "kept", 0.0, results)
                continue
            start = time.perf_counter()
            own = self._own(point)
            on_expected = None
            if lm is None:
                on_expected = announcer(say, sum(results is None for results in finished))
                lm = self.command.load(self._model_args(point))
                # An invalid point is refused before the first one runs.
                wanted = [lm.check(**self._own(other)) for other in points]
            else:
                lm.change(**own)
            later = range(number + 1, len(points))
            to_come = [wanted[other] for other in later if finished[other] is None]
            runner.expect(_thresholds_alone(lm.settings, to_come))
            with lm.answered_by(runner, f"({point.name})", on_expected):
                results, how = self._evaluate(lm, runner, point, folder)
            yield Outcome(point, folder.path, how, time.perf_counter() - start, results)

    def _evaluate(
        self, lm: DynamaxLM, runner: ReuseRunner, point: Point, folder: PointFolder
    ) -> tuple[dict[str, Any], How]:
        from lm_eval.loggers import EvaluationTracker

        origins = runner.origins = Origins()
        tracker = EvaluationTracker()
        model_args = self._model_args(point)
        results = self.command.evaluate(
            lm,
            model_args,
            log_samples=self.log_samples,
            evaluation_tracker=tracker,
        )
        name_run(tracker, self.command.config.model, model_args)
        samples = results.pop("samples", None)
        cache = runner.cache
        lookups = {
            "states": cache.states,
            "scores": cache.scores,
            "answers": cache.full_depth.lookups,
        }
        note = {
            "settings": {name: show(value) for name, value in point.settings},
            "fingerprint": lm.fingerprint,
            "how": (how := _how(origins)),
            "requests": asdict(origins),
            "shared_so_far": {name: asdict(count) for name, count in lookups.items()},
        }
        folder.write(results, samples if self.log_samples else None, tracker, note)
        return results, how

    def _model_args(self, point: Point) -> dict[str, Any]:
        """The arguments of a separate run of this point, which writes where the point does."""
        own = {name: value for name, value in self._own(point).items() if value is not None}
        return point.model_args(self.command.model_args) | own

    def _own(self, point: Point) -> dict[str, Any]:
        """The point's arguments of this package; each point has a trace folder of its own.

        Arguments of other points are set back to the command's, ``None`` being their default.
        """
        varied = {name for other in self.points for name, _ in other.settings} & _CHANGEABLE
        own: dict[str, Any] = {name: self.command.model_args.get(name) for name in varied}
        own |= {name: value for name, value in point.settings if name in _CHANGEABLE}
        traces = self.command.model_args.get("trace_dir")
        if isinstance(traces, str):
            own["trace_dir"] = str(Path(traces) / point.name)
        return own

    def _folder(self, point: Point) -> PointFolder:
        model_args = point.model_args(self.command.model_args)

        def key() -> str:
            told = of_command(self.command, model_args, self.tasks)
            told["log_samples"] = self.log_samples
            return digest(json.dumps(told, sort_keys=True, default=str))

        return PointFolder(self.output / point.name, key)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """A record of how the points were computed."""
        points = [
            {
                "settings": {name: show(value) for name, value in outcome.point.settings},
                "folder": outcome.folder.name,
                "how": outcome.how,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ]
        write_json(self.output / "sweep.json", {"points": points, "of": len(self.points)})


def _how(origins: Origins) -> How:
    if origins.partly or (origins.derived and (origins.rows or origins.run)):
        return "partly"
    if origins.derived:
        return "derived"
    return "rows" if origins.rows else "run"


def _thresholds_alone(now: ExitSettings, to_come: Sequence[ExitSettings]) -> list[float]:
    """Thresholds of later points that differ from ``now`` in nothing else.

    Empty under a rule that has more than one threshold: its points are run one by one.
    """
    return [
        one.threshold
        for one in to_come
        if isinstance(one.threshold, float)
        and now.rule is None
        and replace(one, threshold=now.threshold, trace_dir=now.trace_dir) == now
    ]


def _loading(point: Point) -> list[Any]:
    """The arguments that require loading the model again."""
    return [pair for pair in point.settings if pair[0] not in _CHANGEABLE]
