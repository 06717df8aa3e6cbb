"""Results of a model's default checkpoint are named after it, on disk and on the hub.

lm-eval names a run's folder, and its path on the hub, after the checkpoint in ``model_args``, and
draws a random name where they have none. It does not know that our models have a default one. This
module knows neither files nor sinks.
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
    name_checkpoint(tracker, source, model_args)


def name_checkpoint(tracker: Any, model: object, model_args: Any) -> None:
    """Give the run the checkpoint's name where ``model_args`` leave the checkpoint to the model.

    Args:
        tracker: lm-eval's ``GeneralConfigTracker``, after it was told of the run.
        model: the model's name, such as ``dynamax-mamba``.
        model_args: as lm-eval was given them.
    """
    run = latest_named(model)
    if run is None or tracker._get_model_name(model_args) is not None:
        return
    from lm_eval.utils import sanitize_model_name

    tracker.model_name = str(run.live.settings["pretrained"])
    tracker.model_name_sanitized = sanitize_model_name(tracker.model_name)
