"""``python -m dynamax_lm.heads.train.prompt_maps``: maps for prompts that exit, by least squares.

    python -m dynamax_lm.heads.train.prompt_maps --model dynamax-mistral \
        --model_args pretrained=tiny,dtype=float32 --prompt_exit 8 \
        --data prompts.jsonl --group_by group --output_path maps-8
    lm_eval ... --model_args pretrained=tiny,prompt_exit=8,prompt_maps=maps-8

The frozen model reads prompts once, at full depth. The hidden state after ``--prompt_exit`` layers
is mapped to the input of each layer above, or to the mean input of ``--layers_per_map`` layers. A
part of the text, by group as in ``heads.train``, is held out for the errors in the card.

Options are read before torch is imported.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.common.outputs import writable_folder
from dynamax_lm.harness.command_line import run_command
from dynamax_lm.heads.prompt_map_config import KINDS
from dynamax_lm.heads.train.options import add_data_options, add_model_options, source_of

_CONFIG = "config.json"


def main(arguments: list[str]) -> None:
    """Fit maps, evaluate them on held-out text, and save them with their card.

    Raises:
        SettingError: a fault that the user can correct.
    """
    options = _read(arguments)
    folder = _output_folder(options.output_path)
    source = source_of(options)
    from dynamax_lm.heads.train.prompt_map_fit import fit_and_save

    table = fit_and_save(options, source, folder, _command(options))
    use = f"prompt_exit={options.prompt_exit},prompt_maps={folder}"
    sys.stdout.write(f"{table}\n{folder}: next: {use} in --model_args\n")


def _command(options: argparse.Namespace) -> str:
    """The command that makes these maps, without defaults."""
    usual = parser()
    given = [
        f"--{name} {shlex.quote(str(value))}"
        for name, value in vars(options).items()
        if value != usual.get_default(name)
    ]
    return " ".join(["python -m dynamax_lm.heads.train.prompt_maps", *given])


def _output_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if (folder / _CONFIG).exists():
        raise SettingError(f"--output_path={path}: holds finished maps or heads; give another")
    return writable_folder(folder)


def _read(arguments: list[str]) -> argparse.Namespace:
    options = parser().parse_args(arguments)
    for name in ("prompt_exit", "layers_per_map", "rank", "tokens", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SettingError(f"--{name}={value}: give at least 1")
    if options.window < 2:
        raise SettingError(f"--window={options.window}: a window holds at least 2 tokens")
    if not 0.0 < options.held_out < 1.0:
        raise SettingError(f"--held_out={options.held_out}: give a share in (0, 1)")
    if not 0.0 < options.ridge < 1.0:
        raise SettingError(f"--ridge={options.ridge}: give a share in (0, 1)")
    if not options.output_path.strip():
        raise SettingError("--output_path: names no folder")
    return options


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.heads.train.prompt_maps",
        description="Fit maps for the layers above a prompt exit, by least squares over the hidden "
        "states of prompts.",
        example="python -m dynamax_lm.heads.train.prompt_maps --model dynamax-mistral "
        "--model_args pretrained=tiny,dtype=float32 \\\n"
        "    --prompt_exit 8 --data prompts.jsonl --group_by group --output_path maps-8",
    )
    add_model_options(made, "folder of the maps")
    add = made.add_argument_group("maps").add_argument
    add("--prompt_exit", type=int, required=True, help="layers that prompt tokens run")
    add("--layers_per_map", type=int, default=1, help="consecutive skipped layers that share one")
    add("--map", choices=KINDS, default="affine", help="kind of map")
    add("--rank", type=int, help="of low_rank; default: D/8")
    add("--ridge", type=float, default=1e-4, help="share of each dimension's second moment")
    group = made.add_argument_group("data")
    add_data_options(group)
    add = group.add_argument
    add("--tokens", type=int, default=50_000, help="prompt tokens to fit on")
    add("--window", type=int, default=512, help="most tokens of a prompt, its last ones")
    add("--batch_size", type=int, default=16, help="prompts in a pass")
    add("--held_out", type=float, default=0.1, help="share of groups that are not fitted on")
    add("--seed", type=int, default=0, help="of the order of the documents")
    return made


if __name__ == "__main__":
    run_command(main)
