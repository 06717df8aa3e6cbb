"""Conditions that must be equal for two results to be compared, and reasons for refusals."""

from __future__ import annotations

from typing import NamedTuple

from dynamax_lm.report.runs import Run


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
    """

    version: str
    few_shot: str
    documents: str
    samples: str
    prompting: str
    generation: str
    few_shot_seed: str

    def differ(self, other: Conditions) -> str | None:
        """Why results under these and ``other`` cannot be compared, or ``None`` if they can."""
        for what, ours, theirs in zip(_IN_WORDS, self, other, strict=True):
            if ours != theirs and not (what == _SAMPLES and not (ours and theirs)):
                if what == _SAMPLES:
                    return what
                return f"{what} {ours or 'unknown'} against {theirs or 'unknown'}"
        return None


_SAMPLES = "other samples or prompts"
_IN_WORDS = (
    "other task version:",
    "other few-shot:",
    "other number of samples:",
    _SAMPLES,
    "other chat template or system instruction:",
    "other generation arguments:",
    "other few-shot seed:",
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
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)
