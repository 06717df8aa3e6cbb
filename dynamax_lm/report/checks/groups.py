"""Checks that a group's numbers are the averages of its tasks', pooled as in lm-eval."""

from __future__ import annotations

import math

from dynamax_lm.core.summary import HIGHER_IS_BETTER
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.checks.tables import leaves_of
from dynamax_lm.report.runs import Run


def check_group(run: Run, group: str, found: Verification) -> None:
    """A group's averages of the added metrics, weighted by documents, as lm-eval pools them."""
    leaves = leaves_of(run, group)
    for key, value in run.values(group).items():
        if key.metric not in HIGHER_IS_BETTER:
            continue
        parts = [(run.values(task).get(key), run.documents(task)) for task in leaves]
        known = [(part, size) for part, size in parts if part is not None and size]
        name = f"{run.path} group {group} {key.metric},{key.filter}"
        total = sum(size for _, size in known)
        if not total:
            found.leave(name, "its tasks' numbers are not in the results")
            continue
        found.compare(name, value.mean, sum(part.mean * size for part, size in known) / total)
        stderrs = [(part.stderr, size) for part, size in known if part.stderr is not None]
        pooled_too = run.config.get("bootstrap_iters") != 0 and total > len(known)
        if pooled_too and len(stderrs) == len(known):
            pooled = sum((size - 1) * stderr**2 * size for stderr, size in stderrs)
            again = math.sqrt(pooled / (total - len(known)) / total)
            found.compare(f"{name} stderr", value.stderr, again)
