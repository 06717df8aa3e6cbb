"""Fields that the files do not determine: only another run of the model could detect a change.

`report --verify` prints this list of fields and reasons, and mutation tests compare it with the
detected changes of each field.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

File = Literal["results", "samples", "trace"]


class OnlyARerun(NamedTuple):
    """Fields whose change the other files may not contradict.

    Attributes:
        file: kind of file.
        fields: pattern of the path to the value, names joined by dots, ``*`` for any.
        why: the reason, in words.
    """

    file: File
    fields: str
    why: str


_CIRCUMSTANCES = "circumstances of the run, which no number depends on here"
_ASKED = "what was asked for; what became of it is in the prompts, examples and answers logged"
_OPTIONS = "generation options, where no generating task's file is installed here as it was"
_SECONDS = "seconds"
_MODEL_FACTS = "what the checkpoint's files stated"
_TASK_TEXT = "a task's configuration, where its file is not installed here in the same release"
_RENDERING = "how requests were rendered, for a task that is not certified in any case"
_VALUE = "which value on its side of the threshold"
_TOKENS = "which token, where the emitted and the full-depth token differ before and after"

LIST: tuple[OnlyARerun, ...] = (
    *(
        OnlyARerun("results", fields, _CIRCUMSTANCES)
        for fields in (
            *("git_hash", "upper_git_hash", "date", "pretty_env_info", "transformers_version"),
            *("lm_eval_version", "config.batch_size", "config.batch_sizes*", "config.device"),
            *("config.use_cache", "config.bootstrap_iters", "config.early_exit.skipped*"),
            *("config.early_exit.products.*", "config.early_exit.rows_in_flight*"),
            "config.early_exit.cuda_graphs",
        )
    ),
    OnlyARerun("results", "config.*_seed", _ASKED),
    OnlyARerun("results", "fewshot_as_multiturn", _ASKED),
    OnlyARerun("results", "config.gen_kwargs*", _OPTIONS),
    OnlyARerun("results", "config.early_exit.seconds.*", _SECONDS),
    OnlyARerun("results", "config.early_exit.speed.*", _SECONDS),
    OnlyARerun("results", "total_evaluation_time_seconds", _SECONDS),
    *(
        OnlyARerun("results", fields, _MODEL_FACTS)
        for fields in (
            *("config.model_num_parameters", "config.model_sha", "tokenizer_*", "eot_token_id"),
            *("max_length", "config.early_exit.costs.window"),
        )
    ),
    *(
        OnlyARerun("results", fields, _TASK_TEXT)
        for fields in ("configs.*.dataset_kwargs.*", "configs.*.metadata.*", "configs.*")
    ),
    OnlyARerun(
        "results",
        "config.early_exit.costs.exit_extras.*",
        "what is trained for an exit that no token of the run was billed for",
    ),
    OnlyARerun("results", "versions.*", "a group's version; a task's is checked"),
    *(
        OnlyARerun("results", f"config.early_exit.certificate.setups.*.{name}", _RENDERING)
        for name in ("rendering.*", "cached")
    ),
    OnlyARerun(
        "results",
        "n-samples.*.original",
        "how many documents the data set has, under a limit",
    ),
    OnlyARerun(
        "samples", "resps*", "a log-likelihood, as far as the choice and the confidences allow it"
    ),
    OnlyARerun(
        "samples",
        "consistency",
        "the full-depth answer, where agreement does not imply it; its mean is checked",
    ),
    OnlyARerun("samples", "full_depth_*", "a score of the full-depth answer; its mean is checked"),
    OnlyARerun("trace", "confidence", _VALUE),
    OnlyARerun("trace", "emitted", _TOKENS),
    OnlyARerun("trace", "full_depth", _TOKENS),
    OnlyARerun(
        "trace",
        "all full_depth",
        "all full-depth tokens set to the emitted ones, with agreement, consistency, full_depth_* "
        "and every total set to match: nothing in the files contradicts it",
    ),
    OnlyARerun("trace", "reference_pass", "whether it is null or omitted, which is equivalent"),
)
"""Every such field. A change of a value in several files is detected unless all are changed."""


def listed(file: str, path: str) -> OnlyARerun | None:
    """The entry of a field, or ``None``."""
    return next((e for e in LIST if e.file == file and fnmatchcase(path, e.fields)), None)


def in_words() -> list[str]:
    """One line for each reason, with fields and files."""
    lines: dict[tuple[str, str], list[str]] = {}
    for entry in LIST:
        lines.setdefault((entry.why, entry.file), []).append(entry.fields)
    return [f"{file} {', '.join(fields)}: {why}" for (why, file), fields in lines.items()]
