"""Small files of every kind that the package reads, each with what reads it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_CERTIFIED = Path(__file__).parents[2] / "heads" / "tiny-mamba"


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
