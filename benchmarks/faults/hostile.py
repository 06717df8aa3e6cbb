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
import copy
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

_CERTIFIED = Path(__file__).parents[2] / "heads" / "tiny-mamba"

SECONDS, BYTES = 10.0, 500_000_000
"""More of either is a fault: untouched files take a fraction of a second and a few megabytes."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**30, 1e308, float("inf"), float("nan")),
    *(-0.5, "", "x", "\\ud800", "1" * 1000, "../../etc/passwd", [], [[]], {}, {"a": 1}, [1, 2]),
    *([None], 10**6, "__import__('os')"),
)


class Subject(NamedTuple):
    """A file, and what reads it.

    Attributes:
        name: in the table.
        file: which is changed.
        read: reads it as the package does.
        named: words of which a refusal has one.
        values: whether values inside are changed, in place of bytes.
    """

    name: str
    file: Path
    read: Callable[[], object]
    named: tuple[str, ...]
    values: bool


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


def subjects(folder: Path) -> list[Subject]:
    """Small files of every kind below ``folder``."""
    from dynamax_lm.common.certificate import Certificate, CertificateError
    from dynamax_lm.common.errors import SettingError
    from dynamax_lm.heads import ExitHeads
    from dynamax_lm.heads.prompt_maps import PromptMapBank
    from dynamax_lm.models.lm import DynamaxMistral
    from tests.checkpoints import save_checkpoint
    from tests.heads.builders import heads_config, random_heads, random_maps

    heads, checkpoint, maps = folder / "heads", folder / "checkpoint", folder / "maps"
    certified = folder / "certified"
    random_heads(heads_config(classifier="mamba", translator="low_rank")).save_pretrained(heads)
    save_checkpoint(checkpoint, "mistral")
    random_maps(width=16, n_layers=4, prompt_exit=2).save(maps, "# Maps\n")
    shutil.copytree(_CERTIFIED, certified)

    def load_heads() -> object:
        return ExitHeads.from_pretrained(heads)

    def load_checkpoint() -> object:
        return DynamaxMistral(pretrained=str(checkpoint), threshold=0.3, device="cpu")

    def load_certified() -> object:
        config = ExitHeads.from_pretrained(certified).config
        try:
            return None if config.certificate is None else Certificate.from_json(config.certificate)
        except CertificateError as error:
            raise SettingError(f"{certified}: {error}") from error

    def load_maps() -> object:
        return PromptMapBank.load(maps)

    point, stopped = _point(folder / "point"), _stopped_training(folder, checkpoint)
    run = (str(stopped.file.parent),)
    own, theirs = (str(heads), "heads"), (str(checkpoint), "checkpoint", "config", "tokenizer")
    return [
        Subject("heads, config.json", heads / "config.json", load_heads, own, True),
        Subject("heads, config.json as bytes", heads / "config.json", load_heads, own, False),
        Subject("heads, weights", heads / "model.safetensors", load_heads, own, False),
        Subject(
            *("certified heads, config.json", certified / "config.json", load_certified),
            *((str(certified), "heads", "certificate"), True),
        ),
        Subject("prompt maps, config.json", maps / "config.json", load_maps, (str(maps),), True),
        Subject("prompt maps, weights", maps / "model.safetensors", load_maps, (str(maps),), False),
        Subject(
            "checkpoint, config.json", checkpoint / "config.json", load_checkpoint, theirs, True
        ),
        Subject(
            "checkpoint, tokenizer.json",
            checkpoint / "tokenizer.json",
            load_checkpoint,
            theirs,
            True,
        ),
        Subject(
            "checkpoint, weights", checkpoint / "model.safetensors", load_checkpoint, theirs, False
        ),
        Subject("point of a sweep", point.file, point.read, (), True),
        Subject("training checkpoint", stopped.file, stopped.read, run, False),
    ]


class _Read(NamedTuple):
    """A file that was written by a command, and what reads it."""

    file: Path
    read: Callable[[], object]


def _point(folder: Path) -> _Read:
    """A finished point; reading asserts that it is found with its own results, or not at all."""
    from dynamax_lm.common.contents import file_digest
    from dynamax_lm.sweep.folder import NOTE, PointFolder

    folder.mkdir()
    (folder / "results_1.json").write_text('{"results": {"made-up": 1}}')
    other = folder.with_name("elsewhere.json")
    other.write_text('{"results": {"made-up": 2}}')
    files = {"results_1.json": file_digest(folder / "results_1.json")}
    note = {"key": "made-up", "results": "results_1.json", "files": files, "how": ["made-up"]}
    (folder / NOTE).write_text(json.dumps(note))

    def read() -> object:
        found = PointFolder(folder, lambda: "made-up").finished()
        assert found in (None, {"results": {"made-up": 1}}), f"other results: {found}"
        return found

    return _Read(folder / NOTE, read)


def _stopped_training(folder: Path, checkpoint: Path) -> _Read:
    """A head training that a signal stopped; reading goes on with it up to its next step."""
    from unittest.mock import patch

    from dynamax_lm.heads.train import command
    from dynamax_lm.heads.train.stopping import Stopped
    from dynamax_lm.heads.train.trainer import CHECKPOINT, Trainer

    data, out = folder / "text.jsonl", folder / "training"
    lines = (json.dumps({"text": f"made-up words {n} " * 12}) for n in range(40))
    data.write_text("\n".join(lines))
    arguments = [
        *("--model", "dynamax-mistral", "--model_args", f"pretrained={checkpoint},dtype=float32"),
        *("--data", str(data), "--output_path", str(out), "--max_steps", "9", "--batch_size", "2"),
        *("--window", "24", "--held_out", "0.3", "--width", "8", "--calibration_tokens", "300"),
    ]

    def ask_to_stop(trainer: Trainer) -> object:
        signal.raise_signal(signal.SIGTERM)
        return step(trainer)

    step = Trainer._one_step
    with patch.object(Trainer, "_one_step", ask_to_stop), suppress(Stopped):
        command.train(arguments)

    def read() -> object:
        with patch.object(Trainer, "_one_step", side_effect=_TakenUpError), suppress(_TakenUpError):
            command.train(arguments)
        return None

    return _Read(out / CHECKPOINT, read)


class _TakenUpError(Exception):
    """The checkpoint was read, and the next step would begin."""


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside."""
    if path:
        yield path
    items: Any = data.items() if isinstance(data, dict) else ()
    if isinstance(data, list):
        items = enumerate(data)
    for key, value in items:
        yield from places(value, (*path, key))


def with_other_value(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """JSON in which one value is another, or gone; and the change in words."""
    data = copy.deepcopy(json.loads(content))
    *way, last = draw.choice(list(places(data)))
    inside = data
    for step in way:
        inside = inside[step]
    where = ".".join(map(str, (*way, last)))
    if draw.random() < 0.2 and isinstance(inside, dict):
        del inside[last]
        return json.dumps(data).encode(), f"{where} left out"
    value = draw.choice(VALUES)
    inside[last] = value
    return json.dumps(data).encode(), f"{where} = {value!r}"[:200]


def with_other_bytes(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Content of which some bytes are others, gone or new; and the change in words."""
    where = draw.randrange(min(len(content), draw.choice((8, 64, 512, len(content)))))
    how = draw.choice(("changed", "cut", "added", "huge length"))
    if how == "changed":
        new = bytes(draw.randrange(256) for _ in range(draw.choice((1, 4))))
        return content[:where] + new + content[where + len(new) :], f"bytes at {where}: {new!r}"
    if how == "cut":
        return content[:where], f"cut at {where}"
    if how == "added":
        return content[:where] + b"\x00{}[" + content[where:], f"bytes added at {where}"
    return b"\xff" * 7 + content[7:], "a header of 2^56 bytes"


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
