"""A headroom run: a model at full depth on tasks, with every exit evaluated, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from dynamax_lm import __version__
from dynamax_lm.common.durations import announcer
from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.ledger import CONVENTION
from dynamax_lm.core.prompt_maps import PromptExit
from dynamax_lm.core.texts import Texts
from dynamax_lm.core.totals import TaskTotals
from dynamax_lm.harness.command_line import Command
from dynamax_lm.headroom.documents import Document, RankingRunner, documents_of
from dynamax_lm.headroom.measure import POOL, Headroom, measure
from dynamax_lm.headroom.probe import PromptTry
from dynamax_lm.headroom.verdict import Verdict, judge
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.heads.store import find_folder, read_config_as
from dynamax_lm.settings import parse_settings
from dynamax_lm.settings.exits import Every, read_exit_layers
from dynamax_lm.settings.layers import NAME as LAYERS
from dynamax_lm.settings.values import is_missing

SCHEMA = 2
"""Version of the JSON format."""


@dataclass(frozen=True)
class Report:
    """The results of a headroom run.

    Attributes:
        title: model and checkpoint.
        layers: L.
        found: each task, and their pool last.
        verdicts: one for each.
        settings: those that the numbers depend on.
        textless: tasks with only empty answers; they have no numbers and no verdict.
    """

    title: str
    layers: int
    found: tuple[Headroom, ...]
    verdicts: tuple[Verdict, ...]
    settings: dict[str, Any]
    textless: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        groups = [
            {**asdict(one), "verdict": asdict(verdict)}
            for one, verdict in zip(self.found, self.verdicts, strict=True)
        ]
        return {
            "schema": SCHEMA,
            "title": self.title,
            "layers": self.layers,
            "settings": self.settings,
            "groups": groups,
            "textless": list(self.textless),
            "convention": CONVENTION,
            "version": __version__,
        }


def run(
    command: Command,
    worthwhile: float,
    prompt_exits: Sequence[int] = (),
    prompt_maps: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Evaluate the exits, compute the savings, and give the verdicts.

    Args:
        command: model and tasks; ``exit_layers`` among its arguments names the candidates.
        worthwhile: the least net saving, as a share of full depth's FLOPs.
        prompt_exits: layers at which prompts are tried to exit.
        prompt_maps: folders or hub ids of maps, each tried at its own prompt exit.
        say: called with a line before long work.

    Raises:
        SettingError: any wrong name or value, or a run without answers.
    """
    given = dict(command.model_args)
    given_layers = given.pop("exit_layers", None)
    parse_settings({"exit_layers": given_layers})
    _refuse(given)
    look = parse_settings({"look": given.get("look")}).look
    for name in prompt_maps:
        read_config_as(PromptMapsConfig, find_folder(name, PromptMapsConfig))
    full = {**given, "heads": "none", "mode": "full", "reference": False}
    lm = command.load(full)
    layers = _layers_of(lm, prompt_exits)
    rule = Every(1) if given_layers is None else read_exit_layers(given_layers)
    candidates = rule.place(layers)
    maps = {name: lm.load_prompt_maps(name) for name in prompt_maps}
    tries = [PromptTry(PromptExit(layer)) for layer in prompt_exits]
    tries += [PromptTry(PromptExit(one.prompt_exit, one), name) for name, one in maps.items()]
    announce = announcer(say)

    def on_expected(what: str, seconds: float) -> None:
        announce(what, seconds * (2 + len(tries)))  # each ranking is a further pass

    runner, doing = RankingRunner(candidates, tries), "at full depth and ranking every exit"
    with lm.answered_by(runner, doing, on_expected):
        answers = _Answers.of(command.evaluate(lm, full, bootstrap_iters=0, log_samples=True))
    usual = candidates if given_layers is not None else read_exit_layers(None).place(layers)
    say(f"Computing savings and intervals of {len(answers.documents)} documents")
    found = measure(
        answers.documents,
        lm.stack.costs,
        candidates=candidates,
        default_exits=usual,
        skipped_state=lm.settings.skipped_state,
        look=look,
        texts=answers.texts,
        prompt_exits=tries,
    )
    return Report(
        title=f"{command.config.model}, {_of_model(lm)['pretrained']}",
        layers=layers,
        found=tuple(found),
        verdicts=tuple(judge(one, worthwhile) for one in found),
        settings={
            **_settings_of(command, lm),
            "candidates": list(candidates),
            "look": look.name,
            "worthwhile": worthwhile,
            "prompt_exits": list(prompt_exits),
            "prompt_maps": {name: one.identity for name, one in maps.items()},
        },
        textless=answers.textless,
    )


class _Answers(NamedTuple):
    """What an evaluation answered.

    Attributes:
        documents: those with tokens.
        texts: counts of answers by task, and of all under ``POOL``.
    """

    documents: list[Document]
    texts: dict[str, Texts]

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> _Answers:
        """From the results with samples.

        Raises:
            SettingError: no document has tokens.
        """
        block = results["config"]["early_exit"]
        pooled = TaskTotals.from_json(block)
        by_task = {name: TaskTotals.from_json(task).texts for name, task in block["tasks"].items()}
        documents = _documents(results["samples"], pooled)
        return cls(documents, {**by_task, POOL: pooled.texts})

    @property
    def textless(self) -> tuple[str, ...]:
        """Tasks without documents."""
        return tuple(sorted(self.texts.keys() - {POOL, *(one.task for one in self.documents)}))


def _documents(samples: Any, totals: TaskTotals) -> list[Document]:
    """The documents of a run.

    Raises:
        SettingError: there are none with tokens.
    """
    documents = documents_of(samples)
    if not documents and totals.texts.answers:
        raise SettingError(
            f"--tasks: all {totals.texts.answers} answers are empty; give examples "
            f"(--num_fewshot) or --apply_chat_template"
        )
    if not documents:
        raise SettingError(
            "--tasks: these tasks have no requests that generate or score; name others"
        )
    return documents


def _of_model(lm: Any) -> dict[str, Any]:
    """The settings that every results file of the model has."""
    settings: dict[str, Any] = lm.get_model_info()["early_exit"]["settings"]
    return settings


def _settings_of(command: Command, lm: Any) -> dict[str, Any]:
    """What the command says of model, tasks and documents, as JSON."""
    config, own = command.config, _of_model(lm)
    outside = {name: value for name, value in own["arguments"].items() if name == LAYERS}
    return {
        "model": config.model,
        "model_args": {name: str(value) for name, value in command.model_args.items()},
        "tasks": [str(task) for task in config.tasks],
        "limit": config.limit,
        "num_fewshot": config.num_fewshot,
        "seed": config.seed,
        "skipped_state": lm.settings.skipped_state,
        **outside,
    }


def _refuse(given: Mapping[str, Any]) -> None:
    """Refuse model arguments of exits that are trained, or that decide.

    Raises:
        SettingError: with the argument and what to do instead.
    """
    if not is_missing(given.get("heads")):
        raise SettingError(
            f"heads={given['heads']}: headroom evaluates untrained exits; for the bound of "
            f"trained heads, run lm_eval with them and confidence=oracle"
        )
    for name in ("prompt_exit", "prompt_maps"):
        if not is_missing(given.get(name)):
            raise SettingError(
                f"{name}={given[name]}: exits are evaluated after full-depth prompts; leave it "
                f"out, and give --{name.replace('exit', 'exits')} for what prompts that exit would "
                f"save"
            )
    for name in ("confidence", "threshold", "exit_rule", "exit_rule_args", "trace_dir"):
        if name in given:
            raise SettingError(f"{name}={given[name]}: the oracle policy has none; leave it out")


def _layers_of(lm: Any, prompt_exits: Sequence[int]) -> int:
    """L.

    Raises:
        SettingError: too few layers, or a prompt exit that is none of them.
    """
    layers: int = lm.stack.n_layers
    if layers < 2:
        raise SettingError(f"a model of {layers} layer has no exit")
    for layer in prompt_exits:
        if not 1 <= layer < layers:
            raise SettingError(f"--prompt_exits {layer}: give layers in 1..{layers - 1}")
    return layers
