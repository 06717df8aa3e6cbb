"""The certification command: from options to a printed table and a certificate.

All checks that need no weights run before they load. A certificate without a threshold is a valid
result, with status 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dynamax_lm.certify import store
from dynamax_lm.certify.progress import Progress
from dynamax_lm.certify.run import Measured, Question, certify, losses_for
from dynamax_lm.certify.sample_size import needed_by_any_test, needed_without_loss
from dynamax_lm.certify.tasks import ChosenTask, choose_documents, load_tasks, read_data
from dynamax_lm.certify.units import CONTENTS
from dynamax_lm.common.certificate import LEAST_UNITS, LIKENESS, Certificate, p_value_of
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.identity import digest
from dynamax_lm.common.outputs import claimed, writable_folder
from dynamax_lm.decoders.checkpoint import BY_MODEL, TINY, embedded_model
from dynamax_lm.harness.command_contents import of_command
from dynamax_lm.harness.command_line import Command, model_args_text
from dynamax_lm.harness.decontamination import evaluation_samples, training_contents
from dynamax_lm.harness.machine import described_once
from dynamax_lm.harness.rendering import task_digest
from dynamax_lm.heads import read_config
from dynamax_lm.heads.shipped import shipped_folder
from dynamax_lm.settings import find_measure, read_confidence
from dynamax_lm.settings.values import as_number, is_missing

_REPEATED = (
    *("num_fewshot", "batch_size", "apply_chat_template", "fewshot_as_multiturn"),
    "system_instruction",
)
"""Options of lm-eval that the next command repeats, so that its requests are the certified ones."""


def certify_by_options(options: argparse.Namespace) -> Certificate:
    """Certify, print, and write the certificate.

    Raises:
        SettingError: any wrong option.
        KeyboardInterrupt: says what became of the certificate.
    """
    try:
        return _certify(options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "no certificate was written; the same command goes on after the thresholds that were "
            "tested"
        ) from None


def _certify(options: argparse.Namespace) -> Certificate:
    _check_options(options)
    thresholds = _thresholds(options.thresholds)
    command = Command(options)
    logging.getLogger("lm_eval.api.task").setLevel("ERROR")  # it warns about every file of records
    question = Question(
        metric=options.metric,
        risk=options.risk,
        delta=options.delta,
        thresholds=thresholds,
        seed=(command.config.seed or [0])[0] or 0,
    )
    arguments = _model_arguments(command.model_args)
    heads, output = _places(command, arguments)
    used = heads or _default_heads(command.config.model, arguments)
    tasks = _choose_tasks(options, command, question, used)
    _announce(question, tasks)
    folder = output or heads
    assert folder is not None, "one of them was asked for"
    with claimed(folder):
        return _certify_into(folder, command, question, tasks, arguments, (heads, output))


def _certify_into(
    folder: Path,
    command: Command,
    question: Question,
    tasks: Sequence[ChosenTask],
    given: dict[str, Any],
    places: tuple[Path | None, Path | None],
) -> Certificate:
    """Test the thresholds with progress kept in ``folder``, and write the certificate."""
    heads, output = places
    arguments = given | {"threshold": question.thresholds[0], "reference": True}
    lm = command.load(arguments)
    progress = Progress(folder, _key(command, given, question, tasks))
    if lm.world_size > 1:
        raise SettingError("certify runs in one process; start it without a launcher")
    print(_HEADER, flush=True)

    def evaluate(model: Any, chosen: Sequence[ChosenTask]) -> Mapping[str, Sequence[Any]]:
        results = command.evaluate(
            model,
            arguments,
            tasks=[one.task for one in chosen],
            samples={one.name: list(one.documents) for one in chosen},
            limit=None,
            bootstrap_iters=0,
            log_samples=True,
        )
        samples: Mapping[str, Sequence[Any]] = results["samples"]
        return samples

    def known(threshold: float) -> Measured | None:
        point = progress.take(threshold)
        if point is not None:
            _show(point, question.delta)
        return point

    def keep(point: Measured) -> None:
        _show(point, question.delta)
        progress.keep(point)

    if len(progress):
        was = "was" if len(progress) == 1 else "were"
        print(f"{len(progress)} of the thresholds {was} tested before an interruption.")
    with described_once():
        certificate = certify(
            *(lm, tasks, question, evaluate),
            each=keep,
            known=known,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    if heads is not None:
        print(f"written into {store.write_into_heads(heads, certificate)}")
    if output is not None:
        print(f"written to {store.write_file(output, certificate)}")
    progress.end()
    print(_verdict(certificate))
    if certificate.threshold is not None:
        threshold = "certified" if heads is not None else f"{certificate.threshold:g}"
        print(_next(command, arguments | {"threshold": threshold}))
    return certificate


def _key(
    command: Command,
    arguments: Mapping[str, Any],
    question: Question,
    tasks: Sequence[ChosenTask],
) -> str:
    """Of everything that the outcome of a threshold depends on."""
    shots = command.config.num_fewshot
    told = of_command(command, arguments, {})
    told["question"] = [question.metric, question.risk, question.delta, question.seed]
    told["documents"] = [
        (
            one.name,
            one.digest,
            one.grouped_by,
            list(one.unit_of),
            task_digest(one.task, num_fewshot=shots),
        )
        for one in tasks
    ]
    return digest(json.dumps(told, sort_keys=True, default=str))


def _next(command: Command, arguments: Mapping[str, Any]) -> str:
    """The run that the certificate is for."""
    given = model_args_text({n: v for n, v in arguments.items() if n != "reference"})
    config = command.config
    tasks = ",".join(map(str, config.tasks))
    line = f"next: lm_eval --model {config.model} --model_args {given} --tasks {tasks}"
    if config.include_path:
        line += f" --include_path {config.include_path}"
    if config.gen_kwargs:
        line += f" --gen_kwargs {','.join(f'{n}={v}' for n, v in config.gen_kwargs.items())}"
    for name in _REPEATED:
        value = getattr(config, name)
        if value is True:
            line += f" --{name}"
        elif not (value is None or value is False or (name, value) == ("batch_size", 1)):
            line += f" --{name} {shlex.quote(str(value))}"
    return line


def _check_options(options: argparse.Namespace) -> None:
    limit, shots = options.limit, options.num_fewshot
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and float(limit).is_integer())):
        raise SettingError(f"limit={limit:g}: give a number of documents, or a share below 1")
    if shots is not None and shots < 0:
        raise SettingError(f"num_fewshot={shots}: give 0 or more")


def _thresholds(text: str) -> tuple[float, ...]:
    numbers = [as_number(piece) for piece in text.split(",")]
    if None in numbers:
        raise SettingError(f"thresholds={text}: give numbers in [0, 1], such as 0.99,0.95,0.9")
    return tuple(number for number in numbers if number is not None)


def _model_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The model's arguments, without those that certification sets."""
    certain = {
        "threshold": "certification determines it; --thresholds gives the values to test",
        "exit_rule": "a certificate is for one threshold at every exit; omit it",
        "trace_dir": "every threshold would overwrite the one before; omit it",
    }
    for name, why in certain.items():
        if not is_missing(given.get(name)):
            raise SettingError(f"{name}={given[name]}: {why}")
    if str(given.get("reference", "true")).lower() not in {"true", "1", "none"}:
        raise SettingError("reference=false: a risk is measured against full depth; omit it")
    if str(given.get("mode", "exit")).lower() not in {"exit", "none"}:
        raise SettingError(f"mode={given['mode']}: no token exits there; omit it")
    measure = read_confidence(given.get("confidence"))
    if measure is not None and find_measure(measure).needs_target:
        raise SettingError(
            f"confidence={measure}: it uses the full-depth token: an upper bound, not a result"
        )
    own = ("threshold", "trace_dir", "reference")
    return {name: value for name, value in given.items() if name not in own}


def _places(command: Command, arguments: dict[str, Any]) -> tuple[Path | None, Path | None]:
    """Folders for the certificate: that of the heads, and the given one."""
    heads = arguments.get("heads")
    folder = None if is_missing(heads) else _heads_folder(str(heads))
    if folder is not None:
        store.check_heads(folder)
    if command.config.output_path is None:
        if folder is None:
            raise SettingError(
                "output_path: none given, and no folder of heads to write the certificate into; "
                "give --output_path FOLDER"
            )
        return folder, None
    output = writable_folder(command.config.output_path) / command.checkpoint
    return folder, writable_folder(output)


def _heads_folder(name: str) -> Path | None:
    """The local folder of the heads; ``None`` for heads of the hub."""
    path = Path(name).expanduser()
    return path if path.is_dir() else shipped_folder(name)


def _default_heads(model: str, arguments: dict[str, Any]) -> Path | None:
    """The default heads, which ship with the embedded models."""
    embedded = embedded_model(arguments.get("pretrained"), BY_MODEL[model])
    if "heads" in arguments or embedded is None:
        return None
    return shipped_folder(f"{TINY}-{embedded}")


def _trained_on(heads: Path | None) -> frozenset[str]:
    """Hashes of the heads' training documents; prints a line where they are unknown."""
    if heads is None:
        return frozenset()
    name = str(read_config(heads).data.get("name", "an unknown source"))
    told = training_contents(name)
    if told is None:
        print(
            f"These heads were trained on {name}, whose records are not on this machine: "
            "check yourself that none of these documents is among them."
        )
    return told or frozenset()


def _choose_tasks(
    options: argparse.Namespace, command: Command, question: Question, heads: Path | None
) -> list[ChosenTask]:
    data = read_data(options.data, command.config.tasks)
    elsewhere = evaluation_samples() | _trained_on(heads)
    return [
        choose_documents(
            task,
            data=data.get(task.task_name),
            used_elsewhere=elsewhere,
            limit=command.config.limit,
            seed=question.seed,
            group_by=options.group_by,
        )
        for task in load_tasks(command, data)
    ]


def _announce(question: Question, tasks: Sequence[ChosenTask]) -> None:
    """Prints the hypothesis and the required sample size, before anything runs."""
    losses = losses_for(question, tasks)
    print(
        f"Certifying 1 - {question.metric}"
        if question.metric in LIKENESS
        else f"Certifying the loss of {question.metric} against full depth",
        f"at most {question.risk:g} with probability {1 - question.delta:g}.",
    )
    print(
        f"No test can certify that with fewer than "
        f"{needed_by_any_test(question.risk, question.delta)} independent units; "
        f"{LEAST_UNITS} are the least taken here."
    )
    for chosen, loss in zip(tasks, losses, strict=True):
        test = partial(p_value_of, loss.kind.method)
        needs = needed_without_loss(test, question.risk, question.delta)
        left = [
            f"{count} left out: {why}"
            for count, why in (
                (chosen.overlapping, "in evaluation samples or training data"),
                (chosen.repeated, "repeats of others"),
            )
            if count
        ]
        print(
            f"{chosen.name}: {len(chosen.documents)} documents"
            f"{' (' + '; '.join(left) + ')' if left else ''} in {chosen.units} independent units "
            f"({_grouping(chosen)}), {loss.kind.method} test, which needs {needs} units if none "
            f"has a loss. Loss: {loss.kind.definition}."
        )


def _grouping(chosen: ChosenTask) -> str:
    """How documents are grouped into units, in words."""
    if chosen.grouped_by != CONTENTS:
        return f"one for each value of {chosen.grouped_by}"
    if chosen.units == len(chosen.documents):
        return "no two share a passage"
    return "those that share a passage are one"


_GRID_ENDED = " Every threshold passed: lower --thresholds may save more."
_HEADER = f"{'threshold':>9}  {'mean loss':>9}  {'p-value':>8}  {'flops_saved':>11}  passed  task"


def _show(point: Measured, delta: float) -> None:
    for outcome in point.outcomes:
        passed = "yes" if outcome.p_value <= delta else "no"
        print(
            f"{point.threshold:>9g}  {outcome.mean_loss:>9.4f}  {outcome.p_value:>8.2g}  "
            f"{outcome.flops_saved:>11.4f}  {passed:<6}  {outcome.task}",
            flush=True,
        )


def _verdict(certificate: Certificate) -> str:
    """The result, in one or two lines."""
    if certificate.threshold is None:
        failed = certificate.grid[0]
        return (
            f"Nothing certifies: the safest threshold tested, {failed.threshold:g}, already failed "
            f"(p {failed.p_value:.2g} > delta {certificate.delta:g}). Use a higher risk, give "
            "more documents, or train better heads."
        )
    best = next(p for p in certificate.grid if p.threshold == certificate.threshold)
    saved = [outcome.flops_saved for outcome in best.outcomes]
    pays = "" if math.fsum(saved) > 0 else " It saves nothing: checks cost more than exits save."
    shown = ", ".join(f"{value:.2%}" for value in saved)
    ended = len(certificate.grid) == len(certificate.certified_thresholds)
    more = _GRID_ENDED if ended and certificate.threshold else ""  # none is lower than 0
    return (
        f"Certified: threshold={certificate.threshold:g} keeps the {certificate.metric} risk at "
        f"most {certificate.risk:g} with probability {1 - certificate.delta:g}, and saved {shown} "
        f"of the answers' FLOPs here.{pays}{more}"
    )
