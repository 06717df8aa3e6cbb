"""Pages go, numbers stay."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dynamax_lm.decoders.cpu.pages import page_out


def resident(start: int, end: int) -> int:
    """KiB of the mapping around an address that are in memory."""
    inside = False
    total = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(maxsplit=1)[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(part, 16) for part in head.split("-"))
            inside = low < end and high > start
        elif inside and head == "Rss:":
            total += int(line.split()[1])
    return total


def test_a_mapped_weight_leaves_memory_and_can_be_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "one.safetensors")
    kept = torch.arange(1 << 20, dtype=torch.float32)
    save_file({"weight": kept}, path)
    with safe_open(path, "pt") as file:
        mapped = file.get_tensor("weight")
    assert torch.equal(mapped, kept)
    bounds = mapped.data_ptr(), mapped.data_ptr() + mapped.nbytes
    before = resident(*bounds)
    assert page_out(mapped)
    assert resident(*bounds) <= before - 2048
    assert torch.equal(mapped, kept)


def test_memory_of_our_own_stays_out_of_swap() -> None:
    own = torch.arange(1 << 18, dtype=torch.float32)
    assert not page_out(own)
    assert torch.equal(own, torch.arange(1 << 18, dtype=torch.float32))
    assert not page_out(torch.zeros(3))
