"""No advice to install GPU kernels on a machine without a GPU.

Transformers' Mamba-2 functions log it at their first call, in the middle of a streamed answer.
"""

from __future__ import annotations

import logging

import torch

LOGGER = "transformers.integrations.hub_kernels"
_ADVICE = "is falling back to its reference PyTorch implementation"


class _WithoutAdvice(logging.Filter):
    """Drops the advice."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        return _ADVICE not in record.getMessage()


_FILTER = _WithoutAdvice()


def no_kernel_advice() -> None:
    """From now on transformers does not advise kernels that cannot run here."""
    if not torch.cuda.is_available():
        logging.getLogger(LOGGER).addFilter(_FILTER)  # adding it again has no effect
