"""The command line of certification: options in, a table and a certificate out.

Owns options, what is printed, and the order of checks: everything that can be refused is refused
before weights load. A certificate of no threshold is a result like any other: status 0.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynamax_lm.certificate import Certificate, GridPoint
from dynamax_lm.certify import store
from dynamax_lm.certify.contents import evaluation_samples, training_contents
from dynamax_lm.certify.needed import LEAST, needed_by_any_test, needed_without_loss
from dynamax_lm.certify.run import DEFAULT_GRID, Question, certify, losses_for
from dynamax_lm.certify.tasks import ChosenTask, choose_documents, load_tasks
from dynamax_lm.commandline import folder_name
from dynamax_lm.errors import SettingError
from dynamax_lm.heads import read_config
from dynamax_lm.heads.shipped import shipped_folder
from dynamax_lm.machine import described_once
from dynamax_lm.models.checkpoint import TINY
from dynamax_lm.plugin.bridge import MODELS
from dynamax_lm.plugin.errors import install_one_line_errors
from dynamax_lm.settings.values import as_number, hint, is_missing


def main(argv: Sequence[str] | None = None) -> Certificate:
    """Certify as the command line says, and write the certificate.

    Args:
        argv: options; those of the process if ``None``.

    Raises:
        SettingError: any wrong option.
        SystemExit: options that argparse refuses.
    """
    install_one_line_errors()
    options = _parser().parse_args(argv)
    try:
        return _certify(options)
    except KeyboardInterrupt:
        raise SystemExit("dynamax_lm: interrupted; no certificate was written") from None


def _certify(options: argparse.Namespace) -> Certificate:
    from dynamax_lm.plugin.hook import force

    force()
    from lm_eval.utils import setup_logging

    setup_logging("WARNING")
    logging.getLogger("lm_eval.api.task").setLevel("ERROR")  # it warns of every file of records
    question = Question(
        metric=options.metric,
        risk=options.risk,
        delta=options.delta,
        thresholds=_thresholds(options.thresholds),
        num_fewshot=options.num_fewshot,
        gen_kwargs=options.gen_kwargs or None,
        seed=options.seed,
    )
    arguments = _model_arguments(options.model, options.model_args or {})
    heads, output = _places(options, arguments)
    tasks = _choose_tasks(options, heads or _default_heads(options.model, arguments))
    _announce(question, tasks)

    from lm_eval.api.registry import get_model

    started = {"batch_size": options.batch_size, "device": options.device}
    lm = get_model(options.model).create_from_arg_obj(
        arguments | {"threshold": question.thresholds[0], "reference": True}, started
    )
    if lm.world_size > 1:
        raise SettingError("certify runs in one process; start it without a launcher")
    print(_HEADER, flush=True)
    with described_once():
        certificate = certify(lm, tasks, question, each=lambda point: _show(point, question.delta))
    if heads is not None:
        print(f"written into {store.write_into_heads(heads, certificate)}")
    if output is not None:
        print(f"written to {store.write_file(output, certificate)}")
    print(_verdict(certificate))
    return certificate


def _parser() -> argparse.ArgumentParser:
    from lm_eval._cli.utils import MergeDictAction

    parser = argparse.ArgumentParser(
        prog="python -m dynamax_lm.certify",
        description="Find the lowest threshold whose risk stays bounded, by Learn-then-Test.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", "-M", required=True, help=" or ".join(MODELS))
    add(
        "--model_args",
        "-a",
        nargs="+",
        action=MergeDictAction,
        help="as for lm_eval, without threshold and reference",
    )
    add("--tasks", "-t", required=True, help="tasks, separated by commas")
    add("--data", type=Path, help="JSONL records for the one task named, in its own columns")
    add("--metric", default="agreement", help="agreement, consistency, or a metric of the task")
    add("--risk", type=float, default=0.05, help="bound on the mean loss")
    add("--delta", type=float, default=0.05, help="probability of being wrong")
    grid = ",".join(f"{value:g}" for value in DEFAULT_GRID)
    add("--thresholds", default=grid, help="what to test, separated by commas, safest first")
    add("--limit", "-L", type=float, help="first documents of each task, or a share below 1")
    add("--num_fewshot", "-f", type=int, help="examples before each question")
    add("--gen_kwargs", nargs="+", action=MergeDictAction, help="over the task's own")
    add("--batch_size", "-b", default="1", help="rows at once, or auto")
    add("--device", help="such as cuda or cpu")
    add("--seed", "-s", type=int, default=1234, help="of document order, examples and sampling")
    add("--include_path", help="folder of further tasks")
    add(
        "--output_path",
        "-o",
        type=Path,
        help="folder for certificate.json; not needed where the heads can carry it",
    )
    return parser


def _thresholds(text: str) -> tuple[float, ...]:
    numbers = [as_number(piece) for piece in text.split(",")]
    if None in numbers:
        raise SettingError(f"thresholds={text}: give numbers in [0, 1], such as 0.99,0.95,0.9")
    return tuple(number for number in numbers if number is not None)


def _model_arguments(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """The model's arguments, less what certification decides itself."""
    if model not in MODELS:
        raise SettingError(f"model={model}: choose one of {', '.join(MODELS)}{hint(model, MODELS)}")
    certain = {
        "threshold": "certification decides it; --thresholds says what is tested",
        "trace_dir": "every threshold would write over the one before; leave it out",
    }
    for name, why in certain.items():
        if not is_missing(given.get(name)):
            raise SettingError(f"{name}={given[name]}: {why}")
    if str(given.get("reference", "true")).lower() not in {"true", "1", "none"}:
        raise SettingError("reference=false: a risk is measured against full depth; leave it out")
    if str(given.get("mode", "exit")).lower() not in {"exit", "none"}:
        raise SettingError(f"mode={given['mode']}: nothing leaves there; leave it out")
    if given.get("confidence") == "oracle":
        raise SettingError("confidence=oracle: it looks at full depth itself, and is no result")
    own = ("threshold", "trace_dir", "reference")
    return {name: value for name, value in given.items() if name not in own}


def _places(
    options: argparse.Namespace, arguments: dict[str, Any]
) -> tuple[Path | None, Path | None]:
    """Folders that take the certificate: the heads', and the one asked for."""
    heads = arguments.get("heads")
    folder = None if is_missing(heads) else _heads_folder(str(heads))
    if folder is not None:
        store.check_heads(folder)
    if options.output_path is None:
        if folder is None:
            raise SettingError(
                "output_path: none given, and no folder of heads to write the certificate into; "
                "give --output_path FOLDER"
            )
        return folder, None
    output = options.output_path / folder_name(options.model, arguments.get("pretrained"))
    store.check_output(output)
    return folder, output


def _heads_folder(name: str) -> Path | None:
    """The folder of heads that lie here; ``None`` for those of the hub."""
    path = Path(name).expanduser()
    return path if path.is_dir() else shipped_folder(name)


def _default_heads(model: str, arguments: dict[str, Any]) -> Path | None:
    """The heads that run though nobody named any; they ship with the embedded models."""
    if "heads" in arguments or arguments.get("pretrained") != TINY:
        return None
    return shipped_folder(f"{TINY}-{model.removeprefix('dynamax-')}")


def _trained_on(heads: Path | None) -> frozenset[str]:
    """What the heads' training data tells; says so where that cannot be known."""
    if heads is None:
        return frozenset()
    name = str(read_config(heads).data.get("name", "an unknown source"))
    told = training_contents(name)
    if told is None:
        print(
            f"These heads were trained on {name}, whose records do not lie here: that none of "
            "these documents is among them is for you to know."
        )
    return told or frozenset()


def _choose_tasks(options: argparse.Namespace, heads: Path | None) -> list[ChosenTask]:
    limit = options.limit
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise SettingError(f"limit={limit}: give a number of documents, or a share below 1")
    if options.num_fewshot is not None and options.num_fewshot < 0:
        raise SettingError(f"num_fewshot={options.num_fewshot}: give 0 or more")
    if options.num_fewshot and options.data is not None:
        raise SettingError(
            f"num_fewshot={options.num_fewshot}: with --data the examples would be documents that "
            f"are certified on; leave it out, or certify on the task's own documents"
        )
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if not names:
        raise SettingError("tasks: none given")
    elsewhere = evaluation_samples() | _trained_on(heads)
    return [
        choose_documents(task, data=options.data, used_elsewhere=elsewhere, limit=limit)
        for task in load_tasks(names, options.data, options.include_path)
    ]


def _announce(question: Question, tasks: Sequence[ChosenTask]) -> None:
    """Says what is asked, and what it needs, before anything runs."""
    losses = losses_for(question, tasks)
    print(
        f"Certifying 1 - {question.metric}"
        if losses[0].metric in ("agreement", "consistency")
        else f"Certifying the loss of {question.metric} against full depth",
        f"at most {question.risk:g} with probability {1 - question.delta:g}.",
    )
    print(
        f"No test can certify that with fewer than "
        f"{needed_by_any_test(question.risk, question.delta)} documents; {LEAST} are the least "
        "taken here."
    )
    for chosen, loss in zip(tasks, losses, strict=True):
        needs = needed_without_loss(loss.p_value, question.risk, question.delta)
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
            f"{' (' + '; '.join(left) + ')' if left else ''}, "
            f"{loss.method} test, which needs {needs} if none has a loss."
        )


_GRID_ENDED = " Every threshold passed: lower --thresholds may save more."
_HEADER = f"{'threshold':>9}  {'mean loss':>9}  {'p-value':>8}  {'flops_saved':>11}  passed  task"


def _show(point: GridPoint, delta: float) -> None:
    for outcome in point.outcomes:
        passed = "yes" if outcome.p_value <= delta else "no"
        print(
            f"{point.threshold:>9g}  {outcome.mean_loss:>9.4f}  {outcome.p_value:>8.2g}  "
            f"{outcome.flops_saved:>11.4f}  {passed:<6}  {outcome.task}",
            flush=True,
        )


def _verdict(certificate: Certificate) -> str:
    """What came out, in a line or two."""
    if certificate.threshold is None:
        failed = certificate.grid[0]
        return (
            f"Nothing certifies: the safest threshold tested, {failed.threshold:g}, already failed "
            f"(p {failed.p_value:.2g} > delta {certificate.delta:g}). Ask for a higher risk, give "
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
