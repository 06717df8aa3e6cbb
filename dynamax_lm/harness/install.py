"""Installs the hooks in lm-eval: the methods that are wrapped.

lm-eval 0.4.13 has no other way to add a metric to every task; the package's docstring lists for
each wrap the change to lm-eval that would make it unnecessary. Each calls the original and acts
only on responses that carry records; `templates` and `rouge` only save time. Methods are wrapped on
classes, so that the order of imports does not matter; `evaluate` is a function that other modules
may have bound before, and its wrap only distinguishes two models of the same settings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from dynamax_lm.harness import (
    bootstrap,
    cache,
    groups,
    loggers,
    manifests,
    naming,
    reporting,
    rouge,
    run_registry,
    templates,
)

_MARK = "_early_exit_hook"


def announce(lm: run_registry.Ranks, model: run_registry.LiveModel) -> run_registry.Run:
    """Opens the run of the model that will be evaluated, and installs the hooks.

    Call at the end of the model's constructor, and again whenever a setting changes.

    Args:
        lm: the lm-eval model; weakly referenced.
        model: its fingerprint and settings.

    Returns:
        The model's run, which it keeps as its attribute ``early_exit_run``.
    """
    install()
    return run_registry.open_run(lm, model)


def install() -> None:
    """Hooks lm-eval's classes; idempotent."""
    import lm_eval.api.group
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.evaluator
    import lm_eval.evaluator_utils
    import lm_eval.utils
    from lm_eval.loggers.evaluation_tracker import EvaluationTracker, GeneralConfigTracker
    from lm_eval.loggers.wandb_logger import WandbLogger
    from rouge_score.scoring import BootstrapAggregator

    task, configurable = lm_eval.api.task.Task, lm_eval.api.task.ConfigurableTask
    _wrap(lm_eval.evaluator, "evaluate", reporting.around_evaluate)
    for owner in (task, configurable):
        if "apply_filters" in vars(owner):
            _wrap(owner, "apply_filters", reporting.around_apply_filters)
    _wrap(task, "build_all_requests", reporting.around_build_all_requests)
    _wrap(lm_eval.api.group.Group, "aggregate", groups.around_aggregate)
    _wrap(lm_eval.api.model.CachingLM, "__getattr__", cache.around_getattr)
    _wrap(lm_eval.evaluator_utils, "stderr_for_metric", bootstrap.around_stderr_for_metric)
    _wrap(lm_eval.utils.env, "from_string", templates.around_from_string)
    _wrap(GeneralConfigTracker, "log_experiment_args", naming.around_log_experiment_args)
    _wrap(EvaluationTracker, "save_results_aggregated", manifests.around_save_results)
    _wrap(EvaluationTracker, "save_results_samples", manifests.around_save_samples)
    if hasattr(BootstrapAggregator, "_bootstrap_resample"):  # private; it only saves time
        _wrap(BootstrapAggregator, "_bootstrap_resample", rouge.around_bootstrap_resample)
    if hasattr(WandbLogger, "_generate_dataset"):  # private; a sink must not stop a run
        _wrap(WandbLogger, "_generate_dataset", loggers.around_generate_dataset)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replaces ``owner.name`` by ``around(original, ...)``."""
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(wrapper, _MARK, True)
    setattr(owner, name, wrapper)
