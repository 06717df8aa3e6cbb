"""``python -m dynamax_lm.generate``: its options, and the session that they describe."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.harness.command_line import (
    add_lm_eval_options,
    check_model,
    load_lm,
    model_args_text,
)

if TYPE_CHECKING:
    from dynamax_lm.answers import Answer, ExitGrid
    from dynamax_lm.api import ExitModel

_OPTIONS = (
    *("model", "model_args", "gen_kwargs", "device", "seed", "trust_remote_code"),
    *("apply_chat_template", "system_instruction"),
)
_MAX_NEW = 64
"""Tokens of an answer unless ``--gen_kwargs`` says otherwise."""
_SEED = 1234
"""lm-eval's default seed of torch."""


def main(arguments: list[str]) -> None:
    """Answer every prompt, streamed or as JSON lines.

    Raises:
        SettingError: any wrong name or value.
    """
    options = parser().parse_args(arguments)
    _check(options)
    gen_kwargs = {"max_gen_toks": _MAX_NEW} | dict(options.gen_kwargs or {})
    model_args = dict(options.model_args or {})
    if getattr(options, "trust_remote_code", False):
        model_args["trust_remote_code"] = True
    page = _writable(options.html)
    seed = None if options.seed is None else options.seed[2]
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode still shows answers
    from dynamax_lm.api import ExitModel
    from dynamax_lm.models.exit_model import DynamaxLM
    from dynamax_lm.models.sampling import refuse_unknown_options

    refuse_unknown_options(gen_kwargs)
    lm: DynamaxLM = load_lm(options.model, model_args, device=options.device)
    try:
        _answer(ExitModel(lm), options, gen_kwargs, _SEED if seed is None else seed, page)
    except BrokenPipeError:  # the reader, such as `head`, has what it needs
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer(
    model: ExitModel,
    options: argparse.Namespace,
    gen_kwargs: dict[str, Any],
    seed: int,
    page: Path | None,
) -> None:
    from rich.console import Console

    from dynamax_lm.play.record import to_json
    from dynamax_lm.play.session import Played, Session
    from dynamax_lm.play.terminal import Display

    console = Console(
        highlight=False,
        markup=False,
        emoji=False,
        color_system=None if os.environ.get("NO_COLOR") else "auto",  # rich's keeps bold and dim
    )
    depths = [*model.settings.exit_layers, model.n_layers]
    display = Display(console, depths, lossless=model.settings.mode == "lossless")
    session, played = Session(model, seed), list[Played]()
    for prompt in _prompts(options.prompt):
        given = _templated(model, prompt, options)
        if not played:
            session.warm_up(given, **gen_kwargs)
        if not options.json:
            display.prompt(prompt)
        one = session.play(
            given, (lambda token: None) if options.json else display.token, **gen_kwargs
        )
        played.append(one)
        grid = _grid(model, one.prompt, one.answer) if options.show == "exits" else None
        if options.json:
            record = to_json(one, model.lm.fingerprint, grid)
            sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
            sys.stdout.flush()
            continue
        display.summary(one, _hint(model, one.answer))
        if grid is not None:
            display.exits(one.answer, grid)
    if not played:
        raise SettingError("no prompt: give --prompt, or lines on standard input")
    if page is not None:
        from dynamax_lm.common.outputs import write_text
        from dynamax_lm.play.page import answers_page

        write_text(page, answers_page(played, model))
        sys.stderr.write(f"dynamax_lm: {page}\n")
    if console.is_terminal and not options.json:
        sys.stderr.write(f"{_next(options)}\n")


def _hint(model: ExitModel, answer: Answer) -> str:
    """What to change where exits were checked and none was taken."""
    settings = model.settings
    if settings.mode != "exit" or min(answer.layers_used, default=0) < model.n_layers:
        return ""
    return f"no token exited at threshold {settings.threshold:g}; a lower one exits earlier"


def _next(options: argparse.Namespace) -> str:
    """The same settings on a sample of a task."""
    given = model_args_text(options.model_args or {})
    arguments = f" --model_args {shlex.quote(given)}" if given else ""
    return f"next: lm_eval --model {options.model}{arguments} --tasks dynamax_coqa_sample"


def _grid(model: ExitModel, prompt: str, answer: Answer) -> ExitGrid | None:
    """Every exit's prediction of each token of the answer; ``None`` for an empty one."""
    from dataclasses import replace

    if not answer.tokens:
        return None
    ids = list(model.lm.tok_encode(prompt))[-answer.trace.prompt_tokens - 1 :]
    whole = [*ids, *answer.tokens[:-1]]
    exits = model.settings.exit_layers
    usual = range(max(1, model.n_layers // 4), model.n_layers, max(1, model.n_layers // 4))
    before = model.settings.confidence
    grid = model.probe(whole, list(exits or usual), "top_prob" if before == "oracle" else None)
    rows = slice(len(whole) - len(answer.tokens), None)
    return replace(
        grid,
        tokens=grid.tokens[rows],
        pieces=grid.pieces[rows],
        predicted=grid.predicted[rows],
        confidence=grid.confidence[rows],
        predicted_pieces=grid.predicted_pieces[rows],
    )


def _prompts(given: Sequence[str] | None) -> Iterator[str]:
    """Those of the command line, or the lines of standard input."""
    if given:
        yield from given
        return
    if sys.stdin.isatty():
        sys.stderr.write("One prompt a line; end with Ctrl-D.\n")
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")


def _templated(model: ExitModel, prompt: str, options: argparse.Namespace) -> str:
    """The prompt under the chat template and the system instruction, as lm-eval applies them."""
    template = getattr(options, "apply_chat_template", False)
    system = options.system_instruction
    if not template:
        return f"{system}\n\n{prompt}" if system else prompt
    history = [{"role": "system", "content": system}] if system else []
    try:
        model.lm.chat_template(template)
        return str(model.lm.apply_chat_template([*history, {"role": "user", "content": prompt}]))
    except ValueError as error:
        raise SettingError("--apply_chat_template: the tokenizer has no chat template") from error


def _check(options: argparse.Namespace) -> None:
    from dynamax_lm.harness.plugin.bridge import MODELS

    check_model(options.model, MODELS)
    if any(not prompt for prompt in options.prompt or ()):
        raise SettingError("--prompt is empty")


def _writable(path: Path | None) -> Path | None:
    """The page's path, refused before weights load if it cannot be written."""
    if path is None:
        return None
    from dynamax_lm.common.outputs import writable_folder

    if path.is_dir():
        raise SettingError(f"--html {path}: this is a folder; give a file")
    writable_folder(path.parent, "--html")
    return path


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.generate",
        description="Stream an answer, each token coloured by the layer at which it exited.",
        example="python -m dynamax_lm.generate --model dynamax-mistral "
        "--model_args pretrained=tiny \\\n    --prompt $'Q: What is the capital of France?\\nA:' "
        "--show exits",
    )
    made.add_argument_group("prompt").add_argument(
        "--prompt",
        action="append",
        metavar="<text>",
        help="text to continue; may be repeated (default: the lines of standard input)",
    )
    shown = made.add_argument_group("what is shown")
    shown.add_argument(
        "--show",
        choices=["exits"],
        help="exits: a table of what each exit predicts for each token, with its confidence",
    )
    shown.add_argument("--json", action="store_true", help="one JSON object for each prompt")
    shown.add_argument(
        "--html", type=Path, metavar="<file>", help="also write the answers as an HTML page"
    )
    add_lm_eval_options(made, _OPTIONS)
    return made
