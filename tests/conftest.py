"""Settings that every test shares: offline, few threads, the same examples every time."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs, also from commands that tests start: but for the marked tests all are of a CPU."""
    if "not gpu" in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """Of lm-eval, which an evaluation sets for good: what is logged would depend on the order."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """As evaluations run."""
    with torch.inference_mode():
        yield


@pytest.fixture
def narrow_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tokens at a time, so that slices cut rows in two."""
    monkeypatch.setattr("dynamax_lm.core.exit_view.LOGITS_AT_ONCE", 3 * 61)


@pytest.fixture
def toys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy tasks only, and no look at the machine."""
    from tests.quick import only_toys_alone

    only_toys_alone(monkeypatch)
