"""Transformers' advice to install GPU kernels is not shown where none can run."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers.integrations import hub_kernels

from dynamax_lm.decoders.cpu.kernel_advice import LOGGER, no_kernel_advice

ADVICE = (
    "`mamba_chunk_scan_combined` is falling back to its reference PyTorch implementation because "
    "`mamba_ssm` is not installed."
)


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    found = logging.getLogger(LOGGER)
    monkeypatch.setattr(found, "filters", [])
    return found


@pytest.mark.parametrize("gpu", [False, True])
def test_it_is_dropped_without_a_gpu_alone(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    no_kernel_advice()
    no_kernel_advice()
    assert len(logger.filters) == (not gpu)

    def shown(text: str) -> bool:
        return bool(logger.filter(logging.makeLogRecord({"msg": text})))

    assert shown(ADVICE) == gpu
    assert shown("another warning")


def test_it_is_that_loggers() -> None:
    assert hub_kernels.logger.name == LOGGER
