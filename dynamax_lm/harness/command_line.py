"""Options, tasks and models of this package's commands, shared with lm-eval's command line.

From a command line to ``simple_evaluate``, by lm-eval's own code, so that equal options have equal
effects.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dynamax_lm.common.errors import SettingError, one_line
from dynamax_lm.harness.plugin.errors import install_one_line_errors
from dynamax_lm.harness.plugin.hook import force
from dynamax_lm.harness.plugin.unknown_tasks import is_unknown_tasks, unknown_tasks_line
from dynamax_lm.harness.run_arguments import check_seeds

if TYPE_CHECKING:
    from dynamax_lm.models.exit_model import DynamaxLM

SHARED = (
    *("config", "model", "model_args", "tasks", "num_fewshot", "batch_size", "max_batch_size"),
    *("device", "limit", "gen_kwargs", "apply_chat_template", "fewshot_as_multiturn"),
    *("system_instruction", "include_path", "metadata", "seed", "trust_remote_code"),
    *("confirm_run_unsafe_code", "output_path"),
)
"""Options of ``lm_eval run`` that can change a request, and those of the output."""


LM_EVAL_GROUPS = {
    "model, as in lm_eval run": (
        *("config", "model", "model_args", "batch_size", "max_batch_size", "device"),
        "trust_remote_code",
    ),
    "tasks and requests, as in lm_eval run": (
        *("tasks", "num_fewshot", "limit", "gen_kwargs", "apply_chat_template"),
        *("fewshot_as_multiturn", "system_instruction", "include_path", "metadata", "seed"),
        "confirm_run_unsafe_code",
    ),
    "output, as in lm_eval run": ("output_path",),
}
"""Titles of lm-eval's options in the help of our commands."""

_HELP = {
    "model": "dynamax-mistral, dynamax-mamba or dynamax",
    "model_args": "arguments of the model, as key=value,key=value: lm-eval's of hf, and those of "
    "this package",
    "output_path": "where to write",
}
"""What is said otherwise than by lm-eval, whose text does not hold here."""


def run_options() -> dict[str, argparse.Action]:
    """The options of ``lm_eval run`` by their name, as lm-eval defines them."""
    from lm_eval._cli.run import Run

    parser = Run(argparse.ArgumentParser().add_subparsers())._parser
    return {action.dest: action for action in parser._actions}


def option_names(command: str) -> list[str]:
    """The options of a sub-command of ``lm_eval``, such as ``ls``; of ``run`` for another word."""
    from lm_eval._cli import HarnessCLI

    parsers = HarnessCLI()._subparsers.choices
    actions = parsers.get(command, parsers["run"])._actions
    return [name for action in actions for name in action.option_strings]


def lm_eval_help() -> None:
    """Print lm-eval's help for the process's arguments, which ask for it, and exit."""
    from lm_eval._cli import HarnessCLI

    HarnessCLI().parse_args()


def add_lm_eval_options(parser: argparse.ArgumentParser, names: Sequence[str] = SHARED) -> None:
    """Add options of ``lm_eval run`` to a command, as lm-eval defines them."""
    known = run_options()
    for title, members in LM_EVAL_GROUPS.items():
        chosen = [name for name in members if name in names]
        group = parser.add_argument_group(title) if chosen else parser
        for name in chosen:
            known[name].help = _HELP.get(name, known[name].help)
            group._add_action(known[name])


class Command:
    """Options resolved as lm-eval resolves them: tasks found, defaults filled in.

    Attributes:
        config: lm-eval's own record of the run.
        model_args: the model's arguments as given.
        tasks: the task manager that found the tasks.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        """Read the options.

        Args:
            options: of :func:`add_lm_eval_options`, and any others.

        Raises:
            SettingError: another package's model, no tasks or unknown ones, or a wrong value.
        """
        force()
        from lm_eval.config.evaluate_config import EvaluatorConfig

        from dynamax_lm.harness.plugin.bridge import MODELS

        known = {field.name for field in fields(EvaluatorConfig)}
        theirs = {name: value for name, value in vars(options).items() if name in known}
        asked = dict(theirs.get("metadata") or {})
        from_file = bool(theirs.get("config"))
        if not from_file:
            _check(theirs.get("model"), theirs.get("tasks"), theirs.get("limit"), MODELS)
        try:
            # lm-eval prints a configuration that it read from a file.
            with redirect_stdout(sys.stderr):
                self.config = EvaluatorConfig.from_cli(argparse.Namespace(**theirs))
            if from_file:
                _check(self.config.model, self.config.tasks, self.config.limit, MODELS)
                asked = {
                    name: value
                    for name, value in self.config.metadata.items()
                    if name not in self.config.model_args
                }
            # Never empty here: the task manager would replace an empty mapping by one of its own.
            self._metadata: dict[str, Any] = dict(self.config.metadata) or {"": ""}
            self.tasks = self._found_tasks()
        except (ValueError, TypeError, OSError) as error:
            if is_unknown_tasks(error):
                raise SettingError(unknown_tasks_line(error)) from error
            raise SettingError(one_line(error)) from error
        check_seeds(self.config.seed or ())
        self._asked_metadata = asked
        self.model_args: dict[str, Any] = dict(self.config.model_args)

    def _found_tasks(self) -> Any:
        """The task manager, with lm-eval's own tasks where others than this package's are asked."""
        from dynamax_lm.harness.plugin.task_folder import only_ours, without_stock_tasks

        tasks = self.config.tasks
        names = tasks.split(",") if isinstance(tasks, str) else ",".join(tasks).split(",")
        quick = not self.config.include_path and only_ours(names)
        with without_stock_tasks() if quick else nullcontext():
            return self.config.process_tasks(self._metadata)

    def load(self, model_args: Mapping[str, Any]) -> DynamaxLM:
        """The model, loaded as ``lm_eval`` loads it."""
        config = self.config
        return load_lm(
            config.model,
            model_args,
            batch_size=config.batch_size,
            max_batch_size=config.max_batch_size,
            device=config.device,
        )

    def evaluate(
        self, lm: DynamaxLM, model_args: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        """One evaluation of a loaded model, with the results that ``lm_eval`` would give.

        Args:
            lm: the model, under the settings of ``model_args``.
            model_args: written to the results.
            **options: of ``simple_evaluate``, in addition to or in place of the command line's.
        """
        from lm_eval import simple_evaluate

        config = self.config
        seeds = config.seed
        # lm-eval records the model's arguments with each task that the manager builds.
        self._metadata.clear()
        self._metadata.update({**model_args, **self._asked_metadata})
        given: dict[str, Any] = {
            "model_args": dict(model_args),
            "tasks": config.tasks,
            "task_manager": self.tasks,
            "num_fewshot": config.num_fewshot,
            "batch_size": config.batch_size,
            "max_batch_size": config.max_batch_size,
            "device": config.device,
            "limit": config.limit,
            "gen_kwargs": config.gen_kwargs,
            "system_instruction": config.system_instruction,
            "apply_chat_template": config.apply_chat_template,
            "fewshot_as_multiturn": config.fewshot_as_multiturn,
            "random_seed": seeds[0],
            "numpy_random_seed": seeds[1],
            "torch_random_seed": seeds[2],
            "fewshot_random_seed": seeds[3],
            "confirm_run_unsafe_code": config.confirm_run_unsafe_code,
        }
        results: dict[str, Any] | None = simple_evaluate(model=lm, **given | options)
        if results is None:
            raise SettingError("this command runs in one process; start it without a launcher")
        results["config"]["model"] = config.model
        return results

    @property
    def checkpoint(self) -> str:
        """Model and checkpoint as a folder's name."""
        return folder_name(self.config.model, self.model_args.get("pretrained"))


def load_lm(model: str, model_args: Mapping[str, Any] | str, **options: Any) -> DynamaxLM:
    """One of this package's models, loaded as ``lm_eval`` loads it.

    Args:
        model: ``dynamax-mistral`` or ``dynamax-mamba``.
        model_args: its arguments, or their text as on the command line.
        **options: ``batch_size``, ``max_batch_size`` and ``device`` of ``lm_eval run``.
    """
    force()
    import lm_eval.models  # noqa: F401 - get_model omits it if some model is registered
    from lm_eval.api.registry import get_model
    from lm_eval.utils import simple_parse_args_string

    given = simple_parse_args_string(model_args) if isinstance(model_args, str) else model_args
    lm: DynamaxLM = get_model(model).create_from_arg_obj(dict(given), options)
    return lm


def _check(model: object, tasks: object, limit: float | None, models: Collection[str]) -> None:
    """Refuses a run of another package's model, without tasks, or without documents."""
    check_model(model, models)
    if not tasks:
        raise SettingError("--tasks is missing; dynamax_sample needs no network")
    if limit is not None and not 0 < limit < float("inf"):
        raise SettingError(f"--limit {limit:g}: give at least one document, or leave it out")


def check_model(model: object, models: Collection[str]) -> None:
    """Refuse a model of another package, with the nearest name.

    Args:
        model: as given; ``None`` for none.
        models: the package's.

    Raises:
        SettingError: it is not among ``models``.
    """
    if model in models:
        return
    near = get_close_matches(str(model or ""), models, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    choice = ", ".join(models)
    raise SettingError(f"--model {model or 'is missing'}: choose one of {choice}{hint}")


def model_args_text(arguments: Mapping[str, Any]) -> str:
    """Model arguments as they are typed; a list with plus signs, since lm-eval splits at commas."""
    return ",".join(
        f"{name}={'+'.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
        for name, value in arguments.items()
    )


def folder_name(model: str, pretrained: object) -> str:
    """Model and checkpoint as a folder's name, the checkpoint as lm-eval names it.

    Args:
        model: ``dynamax-mistral`` or ``dynamax-mamba``.
        pretrained: as given; if empty, the model's default checkpoint.
    """
    from lm_eval.utils import sanitize_model_name

    from dynamax_lm.decoders.checkpoint import ARCHITECTURES

    known = {architecture.model: architecture.default for architecture in ARCHITECTURES}
    return f"{model}__{sanitize_model_name(str(pretrained or known[model])).strip('_')}"


def split_values(text: str) -> list[str]:
    """The pieces of ``text`` at commas outside brackets."""
    from lm_eval._cli.utils import split_top_level

    return [piece.strip() for piece in split_top_level(text)]


def read_value(text: str) -> Any:
    """A value as lm-eval reads that of a model argument: a number, a switch, a list or text."""
    from lm_eval._cli.utils import handle_cli_value_string

    return handle_cli_value_string(text)


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run ``main`` on the process's arguments; a wrong setting is one line and status 1."""
    install_one_line_errors()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as lm_eval does
    if not {"-h", "--help"} & set(sys.argv[1:]):  # help is there within a second
        force()
        from lm_eval.utils import setup_logging

        setup_logging(logging.WARNING)  # LMEVAL_LOG_LEVEL takes precedence
    try:
        main(sys.argv[1:])
    except SettingError as error:
        sys.exit(f"dynamax_lm: error: {error}")
    except KeyboardInterrupt as interrupt:
        told = f"; {interrupt}" if str(interrupt) else ""
        sys.stderr.write(f"\ndynamax_lm: interrupted{told}\n")
        sys.exit(130)  # 128 + SIGINT, as shells count
