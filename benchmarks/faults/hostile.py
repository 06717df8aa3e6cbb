"""Changes files as an attacker or an accident would, and checks how each is read.

    python -m benchmarks.faults.hostile [--times 10000] [--seed 0] [--output_path FILE]

Files: configuration and weights of heads and of prompt maps, a certificate in a configuration of
heads; configuration, tokenizer and weights of a checkpoint; the checkpoint of a head training; the
note of a sweep's finished point.
Changes: a value inside a JSON file becomes another, of another kind or far too large, or goes;
bytes are replaced, cut off or added, most often in the header. Each changed file is read as the
package reads it. It must load, or be refused in one line that names the file or its folder, within
``SECONDS`` and ``BYTES`` more memory. A point must be found finished with its own results, or count
as unfinished. That no code of these files runs needs no experiment: none of
them is unpickled or imported.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from benchmarks.faults.changes import with_other_bytes, with_other_value
from benchmarks.faults.subjects import Subject, subjects

SECONDS, BYTES = 10.0, 500_000_000
"""More of either is a fault: untouched files take a fraction of a second and a few megabytes."""


@dataclass(slots=True)
class Tally:
    """What became of the changes of one subject.

    Attributes:
        loaded: the file was read.
        refused: one line that names it.
        faults: every other outcome, with the change.
    """

    loaded: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Ends what takes longer, so that the experiment goes on."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"no end after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def try_one(subject: Subject, draw: random.Random, tally: Tally) -> None:
    """One change; the file is afterwards what it was."""
    from dynamax_lm.common.errors import SettingError

    content = subject.file.read_bytes()
    change = with_other_value if subject.values else with_other_bytes
    changed, words = change(content, draw)
    subject.file.write_bytes(changed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    fault = None
    try:
        with warnings.catch_warnings(), _alarm(SECONDS):
            warnings.simplefilter("ignore")
            subject.read()
        tally.loaded += 1
    except SettingError as error:
        line = str(error)
        tally.refused += 1
        if "\n" in line or not any(name in line for name in subject.named):
            fault = f"refused, but as: {line[:300]}"
    except (Exception, SystemExit) as error:
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        subject.file.write_bytes(content)
    if (took := time.monotonic() - start) > SECONDS:
        fault = f"took {took:.0f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > BYTES:
        fault = f"took {grown / 1e9:.1f} GB"
    if fault is not None:
        tally.faults.append(f"{words}: {fault}")


def hostile(folder: Path, times: int, seed: int, *, progress: bool = False) -> dict[str, Tally]:
    """``times`` changes, spread evenly over the subjects."""
    draw = random.Random(seed)
    tallies: dict[str, Tally] = {}
    found = subjects(folder)
    for number, subject in enumerate(tqdm(found, desc="files", disable=not progress)):
        tally = tallies[subject.name] = Tally()
        share = times * (number + 1) // len(found) - times * number // len(found)
        for _ in tqdm(range(share), desc=subject.name, leave=False, disable=not progress):
            try_one(subject, draw, tally)
    return tallies


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; status 1 where any fault showed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.hostile", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--times", type=int, default=10_000, help="changes in all (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (0)")
    parser.add_argument("--output_path", type=Path, help="JSON file for the counts")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tallies = hostile(Path(folder), given.times, given.seed, progress=True)
    for name, tally in tallies.items():
        print(f"{name}: {tally.loaded} loaded, {tally.refused} refused, {len(tally.faults)} faults")
        kinds = Counter(fault.partition(": ")[2][:80] for fault in tally.faults)
        for kind, count in kinds.most_common(10):
            example = next(fault for fault in tally.faults if kind in fault)
            print(f"  {count}x {example}")
    if given.output_path:
        from dynamax_lm.common.outputs import write_json

        counts = {
            name: {"loaded": t.loaded, "refused": t.refused, "faults": len(t.faults)}
            for name, t in tallies.items()
        }
        write_json(given.output_path, counts)
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
