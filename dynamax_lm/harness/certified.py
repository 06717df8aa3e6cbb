"""For which tasks of a run the certificate of its heads holds: that part of the results block."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dynamax_lm.common.certificate import (
    NOT_CERTIFIED,
    Certificate,
    CertificateError,
    TaskSetup,
    why_not,
)
from dynamax_lm.harness.setup import setting_from

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings


def certificate_block(
    certificate: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    setups: Mapping[str, TaskSetup],
) -> dict[str, Any] | None:
    """The certificate, each task's setup, and whether it is ``certified``, else the ``reason``.

    Args:
        certificate: of the heads' configuration; an invalid one holds for no task.
        settings: of the model's announcement.
        setups: of each evaluated task.

    Returns:
        JSON values; ``None`` where there is no certificate.
    """
    if certificate is None:
        return None
    read, fault = _read(certificate)
    tasks, evaluated = {}, {}
    for name, setup in sorted(setups.items()):
        reason = fault if read is None else _reason(read, settings, setup)
        tasks[name] = {
            "certified": reason is None,
            "reason": None if reason is None else f"{NOT_CERTIFIED}: {reason}",
        }
        evaluated[name] = setup.to_json()
    return {**certificate, "applies": tasks, "setups": evaluated}


def warn_of_uncertified(block: Mapping[str, Any] | None) -> None:
    """One line for each task for which the certificate does not hold."""
    for name, label in (block or {}).get("applies", {}).items():
        if not label["certified"]:
            _log.warning("%s: %s", name, label["reason"])


def _read(certificate: Mapping[str, Any]) -> tuple[Certificate | None, str | None]:
    """The certificate, or the fault in it."""
    try:
        return Certificate.from_json(certificate), None
    except CertificateError as error:
        return None, str(error)


def _reason(certificate: Certificate, settings: Mapping[str, Any], setup: TaskSetup) -> str | None:
    if settings["mode"] != "exit":
        return f"mode is {settings['mode']}, certified for exit"
    if settings.get("exit_rule"):
        return f"exit_rule is {settings['exit_rule']}, certified for one threshold at every exit"
    if not isinstance(settings["threshold"], (int, float)):
        return "there is a threshold for each exit, certified for one at every exit"
    return why_not(
        certificate,
        task=setup,
        setting=setting_from(settings),
        threshold=settings["threshold"],
    )
