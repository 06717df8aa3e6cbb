"""Conditions that must be equal for two results to be compared, and reasons for refusals."""

from __future__ import annotations

from typing import NamedTuple

from dynamax_lm.report.runs import Run
from dynamax_lm.settings import CHANGE_NO_NUMBER

_SAID_ELSEWHERE = frozenset({"pretrained", "dtype", "model", "trust_remote_code"})
_DEFAULTS = {
    "backend": ("default", "causal"),
    "revision": ("main", "None"),
    "attn_implementation": ("sdpa", "None"),
    "use_fast_tokenizer": ("True", "None"),
    "use_safetensors": ("True", "None"),
    "truncation": ("False", "None"),
    "add_bos_token": ("None",),
}
"""Of the ``hf`` model; ``None`` is every argument's."""


class Conditions(NamedTuple):
    """The circumstances of one task's evaluation, each as text; empty where unknown.

    Attributes:
        version: the task's version.
        few_shot: number of examples in the prompt.
        documents: how many documents.
        samples: hash of documents, prompts and targets, where samples were logged.
        prompting: chat template and system instruction.
        generation: generation arguments over the task's own.
        few_shot_seed: which examples, where there are any.
        number_format: of the weights, such as ``bfloat16``.
        limits: model arguments that determine which tokens the model is given.
    """

    version: str
    few_shot: str
    documents: str
    samples: str
    prompting: str
    generation: str
    few_shot_seed: str
    number_format: str
    limits: str

    def differ(self, other: Conditions) -> str | None:
        """Why results under these and ``other`` cannot be compared, or ``None`` if they can."""
        for what, ours, theirs in zip(_IN_WORDS, self, other, strict=True):
            if ours != theirs and not (what in MAY_BE_UNKNOWN and not (ours and theirs)):
                if what == _SAMPLES:
                    return what
                return f"{what} {ours or 'unknown'} against {theirs or 'unknown'}"
        return None


_SAMPLES, _NUMBER_FORMAT = "other samples or prompts", "other number format:"
MAY_BE_UNKNOWN = frozenset({_SAMPLES, _NUMBER_FORMAT})
"""Results of other models may not say them."""

_LIMITS = (
    *("max_length", "truncation", "add_bos_token", "prefix_token_id", "tokenizer"),
    *("softmax_dtype", "mixed_precision_dtype", "enable_thinking", "think_end_token"),
)
_IN_WORDS = (
    "other task version:",
    "other few-shot:",
    "other number of samples:",
    _SAMPLES,
    "other chat template or system instruction:",
    "other generation arguments:",
    "other few-shot seed:",
    _NUMBER_FORMAT,
    "other model arguments:",
)


def conditions_of(run: Run, task: str) -> Conditions:
    """The conditions under which ``run`` evaluated ``task``."""
    few_shot = _text(run.of_task("n-shot", task))
    prompts = ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")
    with_examples = few_shot not in {"", "0"}
    return Conditions(
        version=_text(run.of_task("versions", task)),
        few_shot=few_shot,
        documents=_text(run.documents(task)),
        samples=_text(run.of_task("task_hashes", task)),
        prompting=" ".join(_text(run.data.get(name)) for name in prompts if run.data.get(name)),
        generation=_text(run.config.get("gen_kwargs") or ""),
        few_shot_seed=_text(run.config.get("fewshot_seed")) if with_examples else "",
        number_format=number_format(run),
        limits=", ".join(
            f"{name}={value}" for name, value in arguments_of(run).items() if name in _LIMITS
        ),
    )


def number_format(run: Run) -> str:
    """Of the weights, as torch names it; empty where unknown."""
    dtype = run.settings.get("dtype") or run.config.get("model_dtype")
    return str(dtype or "").removeprefix("torch.")


def arguments_of(run: Run) -> dict[str, str]:
    """Every model argument that may change a number and is not at its default.

    Of this package's runs they are the recorded ones; of others, those that were given.
    """
    if run.settings:
        given = run.settings.get("arguments") or {}
        return {str(name): str(value) for name, value in given.items()}
    return {
        name: value
        for name, value in run.model_args.items()
        if name not in _SAID_ELSEWHERE | CHANGE_NO_NUMBER
        and value not in _DEFAULTS.get(name, ("None", ""))
    }


def _text(value: object) -> str:
    return "" if value is None else str(value)
