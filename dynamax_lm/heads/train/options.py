"""The command line of head training: names, defaults, and checks before anything loads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from dynamax_lm.decoders.checkpoint import ARCHITECTURES
from dynamax_lm.heads.config import CLASSIFIERS, TRANSLATORS
from dynamax_lm.heads.train.documents import Layout
from dynamax_lm.heads.train.labels import read_label
from dynamax_lm.heads.train.sources import DEFAULT_DATA, Source, open_source

LOSSES = ("balanced", "plain")
"""Names in :data:`dynamax_lm.heads.train.losses.CLASSIFIER_LOSSES`."""

_MODELS = sorted(one.model for one in ARCHITECTURES)
_AT_LEAST_ONE = (
    "max_steps",
    "prompts",
    "max_gen_toks",
    "batch_size",
    "calibration_tokens",
    "save_every",
    "log_every",
    "rank",
    "ffn_width",
    "state_size",
    "head_dim",
    "expand",
    "conv_kernel",
)
_SHARES = ("decay", "held_out")


def read_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of ``argv``, with the checks that need no model.

    Raises:
        SettingError: a value out of range, or two that contradict each other.
    """
    options = parser().parse_args(argv)
    for name in _AT_LEAST_ONE:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise SettingError(f"--{name}={value}: give at least 1")
    if not options.output_path.strip():
        raise SettingError("--output_path: names no folder")
    if not 0 <= options.seed < 1 << 63:
        raise SettingError(f"--seed={options.seed}: give a whole number of at least 0")
    for name in _SHARES:
        if not 0.0 <= getattr(options, name) <= 1.0:
            raise SettingError(f"--{name}={getattr(options, name)}: give a share in [0, 1]")
    if not 0.0 < options.held_out < 1.0:
        raise SettingError(
            f"--held_out={options.held_out}: calibration and training both need text"
        )
    if options.window < 2:
        raise SettingError(f"--window={options.window}: a window holds at least 2 tokens")
    if options.answers == "model" and options.max_gen_toks >= options.window:
        raise SettingError(
            f"--max_gen_toks={options.max_gen_toks}: leaves no room for a prompt in a --window of "
            f"{options.window}"
        )
    options.until = [_unescaped(one) for one in options.until]
    for name in ("lr", "translator_lr"):
        if not 0.0 < getattr(options, name) < 10.0:
            raise SettingError(f"--{name}={getattr(options, name)}: give a rate such as 0.002")
    read_label(options.label)
    if options.head == "none" and options.translator == "identity":
        raise SettingError("--head none --translator identity: nothing to train; choose one")
    if options.translator_steps is not None and not (
        0 <= options.translator_steps <= options.max_steps
    ):
        raise SettingError(
            f"--translator_steps={options.translator_steps}: lies in 0..{options.max_steps}, "
            f"the --max_steps"
        )
    return options


def _unescaped(text: str) -> str:
    r"""A stop as typed, where ``\n`` is a new line; other characters are unchanged."""
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise SettingError(
            f"--until={text}: {error.reason}; write a backslash as \\\\, a new line as \\n"
        ) from error


def parser() -> CommandParser:
    """The command's options."""
    made = CommandParser(
        prog="python -m dynamax_lm.heads.train",
        description="Train exit heads for a frozen model; an interrupted run resumes.",
        example="python -m dynamax_lm.heads.train --model dynamax-mamba "
        "--model_args pretrained=tiny \\\n"
        "    --head mamba --data prompts.jsonl --group_by group --answers model "
        "--output_path heads/my-heads",
    )
    add_model_options(made, "folder of the heads and of the run")
    _add_head_options(made.add_argument_group("heads"))
    data = made.add_argument_group("data")
    add_data_options(data)
    _add_answer_options(data)
    _add_training_options(made.add_argument_group("training"))
    return made


def _add_head_options(group: argparse._ArgumentGroup) -> None:
    """Kind and size of the heads, and the exits that get one."""
    add = group.add_argument
    add("--head", choices=CLASSIFIERS, default="mamba", help="kind of classifier")
    add("--width", default="narrow", help="of the classifier: narrow (D/16, 32 at least), full, N")
    add("--ffn_width", type=int, help="inner width of ffn; default: 4 times its width")
    add("--state_size", type=int, default=16, help="state of the Mamba kinds, for each head")
    add("--head_dim", type=int, default=8, help="width of a Mamba head")
    add("--expand", type=int, default=2, help="inner width of the Mamba kinds, times the width")
    add("--conv_kernel", type=int, default=4, help="convolution window of the Mamba kinds")
    add("--translator", choices=TRANSLATORS, default="low_rank", help="kind of translator")
    add("--rank", type=int, help="of the low_rank translator; default: D/8")
    add("--exit_layers", help="8+16+24, every_4, latter_half, …; four over the latter half if not")
    add("--label", default="top1", help="top1, or topK as DYNAMAX relaxes it")


def _add_answer_options(group: argparse._ArgumentGroup) -> None:
    """Who wrote the answers, and what of the documents trains, calibrates and reports."""
    add = group.add_argument
    add(
        "--answers",
        choices=("data", "model"),
        default="data",
        help="who wrote the answers: \
the records, or the frozen model to their prompts, as at run time",
    )
    add("--prompts", type=int, default=10_000, help="with --answers model: at most so many")
    add("--max_gen_toks", type=int, default=48, help="with --answers model: of one answer")
    add(
        "--until",
        action="append",
        default=[],
        help="ends the model's answers, in place of the records' own stops; may be repeated",
    )
    add(
        "--cache",
        action="store_true",
        help="keep hidden states of evaluated tokens on disk while the \
run lasts: the backbone reads every window once; (exits + 1) x D numbers a token",
    )
    add("--window", type=int, default=512, help="tokens of a window")
    add(
        "--held_out",
        type=float,
        default=0.1,
        help="share of groups that do not train: half of them calibrate, half report",
    )
    add(
        "--calibration_tokens",
        type=int,
        default=50_000,
        help="of each of these halves, at most half so many tokens",
    )


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    """Steps, rates and losses of the optimiser, and what it writes."""
    add = group.add_argument
    add("--max_steps", type=int, default=2000, help="steps of the optimiser in all")
    add("--translator_steps", type=int, help="first steps, for translators alone; default: half")
    add("--joint", action="store_true", help="train both at every step instead")
    add("--batch_size", type=int, default=16, help="windows in a step, per process")
    add("--lr", type=float, default=2e-3, help="highest learning rate of classifiers")
    add("--translator_lr", type=float, default=2e-3, help="and of translators")
    add("--loss", choices=LOSSES, default="balanced", help="of classifiers")
    add("--decay", type=float, default=0.0, help="fall of the weights along the exits")
    add(
        "--thin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="thin out tokens as exits do",
    )
    add("--mixed_precision", choices=("no", "bf16", "fp16"), default="no", help="of the heads")
    add("--seed", type=int, default=0, help="of the split, the batches and the weights")
    add("--save_every", type=int, default=200, help="steps between checkpoints")
    add("--log_every", type=int, default=20, help="steps between rows of log.jsonl")


def add_model_options(made: CommandParser, output: str) -> None:
    """Options of the frozen model, and of the folder that gets ``output``."""
    add = made.add_argument_group("model").add_argument
    add("--model", choices=_MODELS, required=True, help="as in lm_eval")
    add("--model_args", default="", help="pretrained=…,dtype=…, as for lm-eval")
    add("--device", help="cpu, cuda, cuda:1, …; a GPU if there is one")
    add("--output_path", required=True, help=output)


def add_data_options(group: argparse._ArgumentGroup) -> None:
    """Options of a source of documents (``heads.train.sources``)."""
    add = group.add_argument
    add("--data", default=DEFAULT_DATA, help="a .txt, .jsonl or folder of them, or a hub dataset")
    add("--data_name", help="configuration of a hub dataset")
    add("--data_split", default="train", help="split of a hub dataset")
    add("--text_field", default="text", help="field of plain text")
    add("--doc_to_text", help="jinja2 template of a record's prompt, as in lm-eval's tasks")
    add("--doc_to_target", help="jinja2 template of its answer")
    add(
        "--group_by",
        help="field that names a record's group, such as a story's; a group lies on one side of "
        "the held-out split",
    )


def source_of(options: argparse.Namespace) -> Source:
    """The documents that the options of :func:`add_data_options` and ``--seed`` name."""
    layout = Layout(
        options.text_field, options.doc_to_text, options.doc_to_target, options.group_by
    )
    return open_source(
        options.data,
        layout=layout,
        seed=options.seed,
        config=options.data_name,
        split=options.data_split,
    )
