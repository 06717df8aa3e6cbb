"""Checks of a task's aggregates against its samples, by lm-eval's name of the aggregation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.report.checks.aggregates import aggregate, mean_stderr
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.rows import FULL_DEPTH_PREFIX
from dynamax_lm.report.runs import Run, Sample

NO_STDERR = "N/A"
"""lm-eval's values for a missing standard error: of one document, or without bootstrap."""


def check_means(
    where: str, run: Run, task: str, samples: Sequence[Sample], found: Verification
) -> None:
    """Every aggregate of the task's results, and the standard errors of means."""
    for key, value in run.values(task).items():
        name = f"{where} {key.metric},{key.filter}"
        kind = _aggregation(run, task, key.metric)
        chosen = [s for s in samples if s.filter == key.filter and key.metric in s.metrics]
        again = aggregate(kind, [sample.metrics[key.metric] for sample in chosen])
        if again is None:
            found.leave(name, f"its aggregation, {kind}, does not follow from what is logged")
            continue
        found.compare(name, value.mean, again)
        if kind != "mean":
            continue
        if len(chosen) > 1 and run.config.get("bootstrap_iters") != 0:
            numbers = [float(sample.metrics[key.metric]) for sample in chosen]
            found.compare(f"{name} stderr", value.stderr, mean_stderr(numbers))
        else:
            written = run.data["results"][task].get(f"{key.metric}_stderr,{key.filter}")
            found.compare(f"{name} stderr", written, NO_STDERR)
    counted = run.of_task("n-samples", task)
    if isinstance(counted, Mapping) and "effective" in counted:
        ids = {sample.doc_id for sample in samples}
        found.compare(f"{where} n-samples", counted["effective"], len(ids))


def _aggregation(run: Run, task: str, metric: str) -> str:
    """lm-eval's name of a metric's aggregation."""
    if metric in HIGHER_IS_BETTER:
        return "mean"
    name = metric.removeprefix(FULL_DEPTH_PREFIX)
    for listed in (run.of_task("configs", task) or {}).get("metric_list") or ():
        if isinstance(listed, Mapping) and listed.get("metric") == name:
            return str(listed.get("aggregation", "unknown"))
    return "unknown"
