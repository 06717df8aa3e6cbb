"""The leaderboard's rows: one measured metric of one task under one setting, and its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dynamax_lm.common.identity import fingerprint_of
from dynamax_lm.common.validation import is_finite
from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.decoders.checkpoint import (
    ARCHITECTURES,
    EMBEDDED,
    TINY,
    embedded_folder,
    embedded_model,
)
from dynamax_lm.report.certificates import holds
from dynamax_lm.report.conditions import (
    Conditions,
    arguments_of,
    conditions_of,
    number_format,
)
from dynamax_lm.report.costs import measure_of
from dynamax_lm.report.rules import threshold_text
from dynamax_lm.report.runs import MetricKey, Run, Value

FULL_DEPTH_PREFIX = "full_depth_"

Kind = Literal["dynamic", "static", "full", "oracle", "lossless", "plain"]
"""How depth is determined: by confidence, by a fixed exit, at full depth, by the oracle (an upper
bound, never a result), by drafts that full depth verifies, or a model of another package."""


_OTHER_WEIGHTS = (
    *("subfolder", "peft", "delta", "gguf_file", "gptqmodel", "autogptq", "quantization_config"),
    *("load_in_4bit", "load_in_8bit", "variant", "layers"),
)
"""Arguments under which one name denotes other weights."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one task in one run; ``None`` where the run has no such number.

    Attributes:
        run: of the numbers.
        checkpoint: the weights, independent of the model type.
        setting: every relevant setting, in words.
        kind: how depth is determined.
        task: the task or group.
        key: the metric and its filter.
        conditions: must be equal for rows to be compared.
        higher_is_better: of the metric.
        quality: the task's metric.
        full_depth: the same metric on the full-depth answers.
        layers_used: decoder layers run per token of the text, 1..L.
        flops_saved: net, over the tokens of the text; may be negative.
        flops_saved_total: with the prompt in both.
        agreement: share of tokens equal to full depth's, in [0, 1].
        layers_used_with_stop: over all generated tokens.
        flops_saved_with_stop: net, over all generated tokens.
        agreement_with_stop: over all generated tokens.
        stop_share: share of generated tokens that only make the stop sequence, in [0, 1].
        consistency: share of documents whose answer is full depth's, in [0, 1].
        agreement_noise: share of tokens on which the reference's pass differs from full depth by
            rounding alone, in [0, 1]; ``None`` where it is 0.
        acceptance_rate: of a lossless run, share of drafted tokens that are accepted.
        accepted_length: of a lossless run, mean number of accepted tokens in a draft.
        passes_per_token: of a lossless run, full-depth runs per token.
        certificate: of the threshold, in words; empty for none.
    """

    run: Run
    checkpoint: str
    setting: str
    kind: Kind
    task: str
    key: MetricKey
    conditions: Conditions
    higher_is_better: bool
    quality: Value
    full_depth: Value | None
    layers_used: Value | None
    flops_saved: Value | None
    flops_saved_total: Value | None
    agreement: Value | None
    layers_used_with_stop: Value | None
    flops_saved_with_stop: Value | None
    agreement_with_stop: Value | None
    stop_share: Value | None
    consistency: Value | None
    agreement_noise: Value | None
    acceptance_rate: Value | None
    accepted_length: Value | None
    passes_per_token: Value | None
    certificate: str

    @property
    def goodness(self) -> float:
        """The metric, signed so that higher is better."""
        return self.quality.mean if self.higher_is_better else -self.quality.mean

    @property
    def comparison_group(self) -> tuple[str, str, MetricKey, Conditions]:
        """The comparison group: rows with equal keys are compared."""
        return self.checkpoint, self.task, self.key, self.conditions

    @property
    def name(self) -> str:
        """Checkpoint and setting, for a legend or a sentence."""
        return f"{self.checkpoint}: {self.setting}"


def rows_of(runs: Iterable[Run]) -> list[Row]:
    """All rows, ordered by task, metric, checkpoint and saving; the newest of equal settings."""
    newest: dict[object, Row] = {}
    found = (row for run in sorted(runs, key=lambda run: run.date) for row in _rows_of_run(run))
    for row in _named_apart(found):
        newest[row.comparison_group, row.run.model, row.setting] = row
    return sorted(newest.values(), key=_order)


def comparison_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by comparison group, each group in the rows' order.

    A run without logged samples has no hash of them, and one of another package may not say its
    number format; it joins the others if they have one.
    """
    keys: list[tuple[Any, ...]] = [(*row.comparison_group[:-1], row.conditions) for row in rows]
    for name in ("number_format", "samples"):
        without = [(*key[:-1], key[-1]._replace(**{name: ""})) for key in keys]
        values: dict[object, set[str]] = {}
        for loose, key in zip(without, keys, strict=True):
            values.setdefault(loose, set()).add(getattr(key[-1], name))
        keys = [
            loose if len(values[loose] - {""}) <= 1 else key
            for loose, key in zip(without, keys, strict=True)
        ]
    groups: dict[object, list[Row]] = {}
    for row, key in zip(rows, keys, strict=True):
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def first_filter(run: Run, task: str) -> str | None:
    """The filter of the added metrics: the task's first."""
    keys = (key for key in run.values(task) if key.metric in HIGHER_IS_BETTER)
    return next((key.filter for key in keys), None)


def kind_of(run: Run) -> Kind:
    """How the run determined its depth; with a prompt exit it is neither full nor static depth."""
    settings = run.settings
    if not settings:
        return "plain"
    early_prompts = settings.get("prompt_exit") is not None
    if settings.get("mode") == "full":
        return "dynamic" if early_prompts else "full"
    if settings.get("mode") == "lossless":
        return "lossless"
    measure = measure_of(run)
    if measure is not None and measure.needs_target:
        return "oracle"
    return "static" if settings.get("threshold") == 0 and not early_prompts else "dynamic"


def static_depth(run: Run) -> int | None:
    """The exit layer of every token of a static run."""
    exits = run.settings.get("exit_layers")
    return int(exits[0]) if kind_of(run) == "static" and exits else None


def checkpoint_of(run: Run) -> str:
    """The weights' name and arguments that change them; the embedded models have one name each."""
    name = run.pretrained
    architecture = next((one for one in ARCHITECTURES if one.model == run.model), None)
    embedded = embedded_model(name, architecture) if architecture else None
    if embedded is None:
        folders = {one: embedded_folder(one) for one in EMBEDDED}
        embedded = next((one for one in EMBEDDED if _same_folder(name, folders[one])), None)
    if embedded is not None:
        name = f"{TINY}/{embedded}"
    given = arguments_of(run)
    revision = given.get("revision") or run.model_args.get("revision", "main")
    parts = [name if revision in {"main", "None"} else f"{name}@{revision}"]
    return ", ".join([*parts, *(f"{one}={given[one]}" for one in _OTHER_WEIGHTS if one in given)])


def setting_of(run: Run) -> str:
    """Every relevant setting, in words."""
    settings, kind = run.settings, kind_of(run)
    further = [
        f"{name}={value}"
        for name, value in arguments_of(run).items()
        if name != "revision" and name not in _OTHER_WEIGHTS
    ]
    if (dtype := number_format(run)) not in {"", "float32"}:
        further.append(dtype)
    if kind == "plain":
        return ", ".join([f"full depth ({run.model})", *further])
    if kind == "full":
        return ", ".join(["full depth", *further])
    prompts: list[str] = []
    if settings.get("prompt_exit") is not None:
        prompts = [f"prompts exit at {settings['prompt_exit']}{_maps(settings)}"]
    if settings.get("mode") == "full":
        return ", ".join(["full-depth answers", *prompts, *further])
    exits = "+".join(map(str, settings.get("exit_layers") or ()))
    state = settings.get("skipped_state", "?")
    parts = [f"exits {exits}", str(state)]
    if kind == "static":
        parts = [f"always layer {static_depth(run)}", str(state)]
    elif kind == "oracle":
        parts.insert(0, str(settings.get("confidence")))
    else:
        look = f" (look={settings['look']})" if settings.get("look") else ""
        parts.insert(0, f"{settings.get('confidence')}{look} ≥ {threshold_text(settings)}")
    if kind == "lossless":
        parts.insert(0, f"lossless, drafts of {settings.get('draft_length', 'auto')}")
    if settings.get("heads"):
        which = str(settings.get("heads_fingerprint") or "")[:4]
        name = Path(str(settings["heads"])).name
        parts.append(f"heads {name} ({which})" if which else f"heads {name}")
    return ", ".join([*parts, *prompts, *further])


def _maps(settings: Mapping[str, Any]) -> str:
    """The maps of prompts that exit, in words; empty for none."""
    if not settings.get("prompt_maps"):
        return ""
    which = str(settings.get("prompt_maps_fingerprint") or "")[:4]
    return f" with maps {Path(str(settings['prompt_maps'])).name} ({which})"


def _named_apart(rows: Iterable[Row]) -> Iterator[Row]:
    """Checkpoints of one name with different contents get the first digits of their digest."""
    known = list(rows)
    contents: dict[object, set[str]] = {}
    for row in known:
        name = row.checkpoint, row.conditions.number_format
        contents.setdefault(name, set()).add(_contents(row.run))
    for row in known:
        found, own = contents[row.checkpoint, row.conditions.number_format], _contents(row.run)
        if own and len(found - {""}) > 1:
            row = replace(row, checkpoint=f"{row.checkpoint} ({own[:4]})")
        yield row


def _contents(run: Run) -> str:
    """The digest of a run's checkpoint; empty where the results do not have it."""
    parts = run.settings.get("checkpoint")
    if not isinstance(parts, dict):
        return ""
    return fingerprint_of({"weights": run.settings.get("weights"), **parts})


def _rows_of_run(run: Run) -> list[Row]:
    return [
        _row(run, task, key)
        for task in run.tasks()
        for key in run.values(task)
        if key.metric not in HIGHER_IS_BETTER and not key.metric.startswith(FULL_DEPTH_PREFIX)
    ]


def _row(run: Run, task: str, key: MetricKey) -> Row:
    values, ours = run.values(task), first_filter(run, task) or ""
    full_depth = values.get(MetricKey(FULL_DEPTH_PREFIX + key.metric, key.filter))
    higher = (run.of_task("higher_is_better", task) or {}).get(key.metric)
    return Row(
        run=run,
        checkpoint=checkpoint_of(run),
        setting=setting_of(run),
        kind=kind_of(run),
        task=task,
        key=key,
        conditions=conditions_of(run, task),
        higher_is_better=higher is not False,
        quality=values[key],
        full_depth=full_depth,
        **{name: values.get(MetricKey(name, ours)) for name in HIGHER_IS_BETTER},
        certificate=_certificate(run, task),
    )


def _certificate(run: Run, task: str) -> str:
    """The certificate in words, and whether it holds for this task; empty without one."""
    found = (run.early_exit or {}).get("certificate")
    if not isinstance(found, dict):
        return ""
    applies = (found.get("applies") or {}).get(task) or {}
    if applies.get("certified") and not holds(found, run.settings, task):
        return "not certified here: the results file does not bear out its certificate"
    if not applies.get("certified"):
        return str(applies.get("reason") or "not certified here")
    risk, delta = found.get("risk"), found.get("delta")
    if not is_finite(risk) or not is_finite(delta):
        return ""
    return f"{found.get('metric', 'metric')} loss ≤ {risk:g} with probability {1 - delta:g}"


def _same_folder(name: str, folder: str) -> bool:
    try:
        return Path(name).expanduser().resolve() == Path(folder).resolve()
    except (OSError, RuntimeError, ValueError):
        return False


def _order(row: Row) -> tuple[str, str, str, str, float]:
    saved = row.flops_saved.mean if row.flops_saved else float("inf")
    return row.task, row.key.metric, row.key.filter, row.checkpoint, -saved
