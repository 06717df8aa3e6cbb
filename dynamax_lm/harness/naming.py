"""Results of a model's default checkpoint are named after it, on disk and on the hub.

lm-eval names a run's folder, and its path on the hub, after the checkpoint in ``model_args``, and
chooses a random name where they have none; this package's models have a default checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamax_lm.harness.run_registry import latest_named


def around_log_experiment_args(
    original: Callable[..., Any], tracker: Any, *args: Any, **kwargs: Any
) -> None:
    """Wraps ``GeneralConfigTracker.log_experiment_args``."""
    original(tracker, *args, **kwargs)
    source = kwargs.get("model_source", args[0] if args else None)
    model_args = kwargs.get("model_args", args[1] if len(args) > 1 else None)
    _name_checkpoint(tracker, source, model_args)


def name_run(tracker: Any, model: str, model_args: Any) -> None:
    """Name a command's run as ``lm_eval`` would; its tracker was told of a loaded model alone.

    Args:
        tracker: lm-eval's ``EvaluationTracker``, after the evaluation.
        model: the model's name, such as ``dynamax-mamba``.
        model_args: as given to lm-eval.
    """
    tracker.general_config_tracker.model_source = model
    _name_checkpoint(tracker.general_config_tracker, model, model_args)


def _name_checkpoint(tracker: Any, model: object, model_args: Any) -> None:
    """Name the run after the default checkpoint where ``model_args`` have none.

    Args:
        tracker: lm-eval's ``GeneralConfigTracker``, with the run's arguments.
        model: the model's name, such as ``dynamax-mamba``.
        model_args: as given to lm-eval.
    """
    run = latest_named(model)
    if run is None or tracker._get_model_name(model_args) is not None:
        return
    from lm_eval.utils import sanitize_model_name

    tracker.model_name = str(run.live.settings["pretrained"])
    tracker.model_name_sanitized = sanitize_model_name(tracker.model_name)
