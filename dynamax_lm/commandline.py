"""What our commands share with lm-eval's: its options, its tasks, and one of our models on them.

Owns the way from a command line to ``simple_evaluate``, as ``lm_eval`` itself goes it, so that the
same options mean the same. It does not know what a command does with the results.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamax_lm.errors import SettingError
from dynamax_lm.plugin.hook import force

if TYPE_CHECKING:
    from dynamax_lm.models.lm import DynamaxLM

_SEEDS = "0,1234,1234,1234"


def add_lm_eval_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm_eval run`` that our commands take, spelt and read as there."""
    from lm_eval._cli.utils import MergeDictAction, SplitArgs, _int_or_none_list_arg_type

    group = parser.add_argument_group("as in lm_eval")
    add = partial(group.add_argument, default=None)
    add("--model", "-M", metavar="<name>", help="dynamax-mistral or dynamax-mamba")
    add(
        "--model_args",
        "-a",
        nargs="+",
        action=MergeDictAction,
        metavar="<arg>",
        help="model arguments as key=value,key2=value2; pretrained=tiny is the embedded model",
    )
    add(
        "--tasks",
        "-t",
        nargs="+",
        action=SplitArgs,
        metavar="<task1,task2>",
        help="tasks and groups; dynamax_sample needs no network",
    )
    add("--num_fewshot", "-f", type=int, metavar="<n>", help="examples in the context")
    add("--batch_size", "-b", metavar="<size>", help="rows of a batch, or auto (default: 1)")
    add("--max_batch_size", type=int, metavar="<n>", help="most rows under --batch_size auto")
    add("--device", metavar="<device>", help="such as cuda or cpu")
    add("--limit", "-L", type=float, metavar="<n>", help="documents of each task, or their share")
    add("--gen_kwargs", nargs="+", action=MergeDictAction, metavar="<arg>", help="as in lm_eval")
    add("--apply_chat_template", nargs="?", const=True, metavar="<template>", help="as in lm_eval")
    add(
        "--fewshot_as_multiturn",
        nargs="?",
        const=True,
        type=lambda text: text.lower() in ("true", "1", "yes"),
        metavar="<bool>",
        help="as in lm_eval: with a chat template by default",
    )
    add("--system_instruction", metavar="<text>", help="as in lm_eval")
    add("--include_path", metavar="<path>", help="a folder of further tasks")
    add(
        "--seed",
        type=partial(_int_or_none_list_arg_type, 3, 4, _SEEDS),
        metavar="<python,numpy,torch,fewshot>",
        help=f"one seed, or one for each generator (default: {_SEEDS})",
    )
    add("--output_path", "-o", metavar="<path>", help="the folder to write to")


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
            SettingError: a model that is not ours, no tasks or unknown ones, or a wrong value.
        """
        force()
        from lm_eval.config.evaluate_config import EvaluatorConfig

        from dynamax_lm.plugin.bridge import MODELS

        given = vars(options)
        names = ", ".join(MODELS)
        if given.get("model") not in MODELS:
            raise SettingError(
                f"--model {given.get('model') or 'is missing'}: choose one of {names}"
            )
        if not given.get("tasks"):
            raise SettingError("--tasks is missing; dynamax_sample needs no network")
        if given.get("limit") is not None and not given["limit"] > 0:
            raise SettingError(f"--limit {given['limit']:g}: give at least one document")
        known = {field.name for field in fields(EvaluatorConfig)}
        theirs = {name: value for name, value in given.items() if name in known}
        try:
            self.config = EvaluatorConfig.from_cli(argparse.Namespace(**theirs))
            # Never empty here: the task manager keeps a mapping of its own instead of an empty one.
            self._metadata: dict[str, Any] = dict(self.config.metadata) or {"": ""}
            self.tasks = self.config.process_tasks(self._metadata)
        except (ValueError, OSError) as error:
            raise SettingError(_one_line(error)) from error
        self.model_args: dict[str, Any] = dict(self.config.model_args)

    def load(self, model_args: Mapping[str, Any]) -> DynamaxLM:
        """The model, loaded as ``lm_eval`` loads it."""
        from lm_eval.api.registry import get_model

        config = self.config
        lm: DynamaxLM = get_model(config.model).create_from_arg_obj(
            dict(model_args),
            {
                "batch_size": config.batch_size,
                "max_batch_size": config.max_batch_size,
                "device": config.device,
            },
        )
        return lm

    def evaluate(
        self, lm: DynamaxLM, model_args: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        """One evaluation of a loaded model, whose results say what ``lm_eval``'s would.

        Args:
            lm: the model, under the settings that ``model_args`` ask for.
            model_args: what goes into the results.
            **options: further ones of ``simple_evaluate``.
        """
        from lm_eval import simple_evaluate

        config = self.config
        seeds = config.seed
        # lm-eval notes the model's arguments with each task that the manager builds.
        self._metadata.clear()
        self._metadata.update(model_args)
        results: dict[str, Any] | None = simple_evaluate(
            model=lm,
            model_args=dict(model_args),
            tasks=config.tasks,
            task_manager=self.tasks,
            num_fewshot=config.num_fewshot,
            batch_size=config.batch_size,
            max_batch_size=config.max_batch_size,
            device=config.device,
            limit=config.limit,
            gen_kwargs=config.gen_kwargs,
            system_instruction=config.system_instruction,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=config.fewshot_as_multiturn,
            random_seed=seeds[0],
            numpy_random_seed=seeds[1],
            torch_random_seed=seeds[2],
            fewshot_random_seed=seeds[3],
            **options,
        )
        if results is None:
            raise SettingError("this command runs in one process; start it without a launcher")
        results["config"]["model"] = config.model
        return results

    @property
    def checkpoint(self) -> str:
        """Model and checkpoint as a folder's name."""
        return folder_name(self.config.model, self.model_args.get("pretrained"))


def folder_name(model: str, pretrained: object) -> str:
    """Model and checkpoint as a folder's name, the checkpoint as lm-eval names it.

    Args:
        model: ``dynamax-mistral`` or ``dynamax-mamba``.
        pretrained: as given; nothing stands for the model's own checkpoint.
    """
    from lm_eval.utils import sanitize_model_name

    from dynamax_lm.models.checkpoint import ATTENTION, MAMBA2

    known = {architecture.model: architecture.default for architecture in (ATTENTION, MAMBA2)}
    return f"{model}__{sanitize_model_name(str(pretrained or known[model])).strip('_')}"


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run ``main`` on the process's arguments; a wrong setting is one line and status 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as lm_eval does
    force()
    from lm_eval.utils import setup_logging

    setup_logging(logging.WARNING)  # LMEVAL_LOG_LEVEL overrules
    try:
        main(sys.argv[1:])
    except SettingError as error:
        sys.exit(f"dynamax_lm: error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("\ndynamax_lm: interrupted\n")
        sys.exit(130)  # 128 + SIGINT, as shells count


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """A JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    partial.replace(path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
