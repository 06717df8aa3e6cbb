"""For which tasks of a run its certificate holds, from what the results file records.

What a results file states of this is not believed: it follows from the certificate, the settings
and how requests were rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamax_lm.common.certificate import TaskSetup
from dynamax_lm.harness.certified import certificate_block

_ADDED = frozenset({"applies", "setups"})


def of_the_heads(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate of the heads, without the entries that a run adds."""
    return {name: value for name, value in certificate.items() if name not in _ADDED}


def applies_again(
    certificate: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """By task, whether the certificate holds, else why not.

    Args:
        certificate: of a results block.
        settings: of the same block.

    Raises:
        CertificateError, KeyError, TypeError, AttributeError: damaged or missing setups.
    """
    setups = {task: TaskSetup.from_json(one) for task, one in certificate["setups"].items()}
    again = certificate_block(of_the_heads(certificate), settings, setups) or {}
    applies: dict[str, dict[str, Any]] = again.get("applies") or {}
    return applies


def holds(certificate: Mapping[str, Any], settings: Mapping[str, Any], task: str) -> bool:
    """Whether it holds for ``task``; not where that cannot be told."""
    if settings.get("heads") is None:
        return False
    try:
        return bool(applies_again(certificate, settings)[task]["certified"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
