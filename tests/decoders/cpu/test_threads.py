"""A warning where several threads are slower than one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dynamax_lm.decoders.cpu.threads import SLOWER, busy_cores, seconds_of_products


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("ratio", [0.5, 0.99 * SLOWER, 1.01 * SLOWER, 40.0])
def test_a_ratio_from_the_bound_on_warns(two_threads: None, ratio: float) -> None:
    said = busy_cores(64, lambda threads, width: ratio if threads == 2 else 1.0)
    assert bool(said) == (ratio >= SLOWER)
    if said:
        assert said.startswith(f"2 processor threads take {ratio:.0f} times as long as one")
        assert "OMP_NUM_THREADS=1" in said


def test_one_thread_is_not_compared() -> None:
    assert torch.get_num_threads() == 1

    def never(threads: int, width: int) -> float:
        raise AssertionError

    assert busy_cores(64, never) == ""


def test_measuring_leaves_the_threads_as_they_were(two_threads: None) -> None:
    assert seconds_of_products(1, 16) > 0
    assert torch.get_num_threads() == 2
