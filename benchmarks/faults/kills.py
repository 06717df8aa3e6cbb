"""Kills commands at random moments, and checks the files left and the results of resumed runs.

    python -m benchmarks.faults.kills [--commands evaluate sweep train certify report] [--times 50]

Each command runs once undisturbed. Then, in another folder, it is killed (SIGKILL, its process
group) after a random part of it, and started again in the same folder, until it has been
killed ``--times`` times; where it ends before its kill, the folder is emptied and the next attempt
starts anew, which does not count. After every kill each finished file must be whole. After every
end, the outcome must be the undisturbed one's.

The process imports everything once and forks a child for each attempt, so that kills fall into the
work and not into imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.faults.commands import COMMANDS, Killed, Place, evaluate
from benchmarks.faults.whole import damaged_files

WORDS = ("the", "old", "river", "ran", "under", "seven", "bridges", "and", "home")


@dataclass(slots=True)
class Series:
    """What a series of kills showed.

    Attributes:
        command: its name.
        seconds: of the undisturbed run.
        killed: attempts that were killed before their end.
        ended: attempts that ended, each after at least one kill in its folder.
        damaged: complaints about finished files, after kills and ends.
        differing: ends whose outcome was not the undisturbed one's.
        failed: messages of attempts that ended with an error.
    """

    command: str
    seconds: float
    killed: int = 0
    ended: int = 0
    damaged: list[str] = field(default_factory=list)
    differing: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Everything that must not happen."""
        return len(self.damaged) + self.differing + len(self.failed)


@contextmanager
def places(folder: Path) -> Iterator[Place]:
    """A random checkpoint, text and an earlier run below ``folder``; where commands write."""
    from tests.checkpoints import save_checkpoint

    checkpoint = save_checkpoint(folder / "checkpoint", "mistral", max_position_embeddings=512)
    data = folder / "data.jsonl"
    draw = random.Random(0)
    asked = [{"prompt": " ".join(draw.choices(WORDS, k=12)), "answer": "no"} for _ in range(40)]
    data.write_text("".join(json.dumps(one) + "\n" for one in asked), "utf-8")
    choices = folder / "choices.jsonl"
    choices.write_text("".join(_question(number, draw) for number in range(320)), "utf-8")
    place = Place(checkpoint, data, choices, folder / "run", folder / "run")
    if _attempt(Killed(evaluate, len), place, folder / "log.txt", None) != 0:
        raise RuntimeError((folder / "log.txt").read_text("utf-8"))
    yield replace(place, out=folder / "out")


def _question(number: int, draw: random.Random) -> str:
    """A line with a question of two options."""
    options = {"choices": draw.sample(WORDS, k=2), "labels": [1, 0]}
    question = f"Question {number}: {' '.join(draw.choices(WORDS, k=4))}?"
    return json.dumps({"question": question, "mc1_targets": options}) + "\n"


def _attempt(command: Killed, place: Place, log: Path, seconds: float | None) -> int | None:
    """Run ``command`` in a child.

    Returns:
        Its exit status; ``None`` where it was killed after ``seconds``.
    """
    child = os.fork()
    if child == 0:
        _become(command, place, log)
    os.setpgid(child, child)  # here, so that the group exists before the first kill
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def _become(command: Killed, place: Place, log: Path) -> None:
    """Run ``command`` to its end and leave the process, without returning."""
    status = 1
    try:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                command.start(place)
                status = 0
            except SystemExit as leaving:
                status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(status)


def kill_series(
    name: str, place: Place, times: int, seed: int = 0, *, progress: bool = False
) -> Series:
    """Kill the command ``name`` in ``place.out`` until ``times`` attempts have been killed.

    Raises:
        RuntimeError: the undisturbed run fails.
    """
    command, draw, log = COMMANDS[name], random.Random(seed), place.out.parent / "log.txt"
    shutil.rmtree(place.out, ignore_errors=True)
    start = time.monotonic()
    if _attempt(command, place, log, None) != 0:
        raise RuntimeError(f"{name} fails undisturbed:\n{log.read_text('utf-8')}")
    series = Series(name, round(time.monotonic() - start, 2))
    expected = command.outcome(place.out)
    shutil.rmtree(place.out)
    resumes = False
    bar = tqdm(total=times, desc=f"{name}: kills", disable=not progress)
    while series.killed < times or resumes:
        last = series.killed >= times
        status = _attempt(command, place, log, None if last else draw.uniform(0, series.seconds))
        series.damaged += damaged_files(place.out) if place.out.exists() else []
        if status is None:
            series.killed, resumes = series.killed + 1, True
            bar.update()
            continue
        said = log.read_text("utf-8")
        finished = resumes and command.refusal is not None and command.refusal in said
        if status != 0 and not finished:
            series.failed.append(said[-2000:])
        elif resumes:
            series.ended += 1
            series.differing += command.outcome(place.out) != expected
        shutil.rmtree(place.out, ignore_errors=True)
        resumes = False
    bar.close()
    return series


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the series; status 1 where any fault showed."""
    given = _parser().parse_args(arguments)
    found: list[dict[str, Any]] = []
    faults = 0
    with tempfile.TemporaryDirectory() as folder, places(Path(folder)) as place:
        for name in given.commands:
            series = kill_series(name, place, given.times, given.seed, progress=True)
            faults += series.faults
            found.append(asdict(series))
            print(
                f"{name}: {series.killed} kills, {series.ended} resumed to the end, "
                f"{len(series.damaged)} damaged files, {series.differing} other outcomes, "
                f"{len(series.failed)} errors"
            )
            for complaint in (*series.damaged, *series.failed):
                print(f"  {complaint}")
    if given.output_path:
        from dynamax_lm.common.outputs import write_json

        write_json(given.output_path, found)
    return int(faults > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.kills", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--times", type=int, default=50, help="kills of each command (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--output_path", type=Path, help="JSON file for what was found")
    return parser


if __name__ == "__main__":
    sys.exit(main())
