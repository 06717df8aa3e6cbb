"""Two works against ``hf``, on a small model."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.against_hf import WORKS, main


def test_every_work_is_timed_for_both(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    threads = ["--documents", "2", "--layers", "4", "--width", "256"]
    assert main([*threads, "--output_path", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["documents"] == 2
    assert set(found["seconds"]) == set(WORKS)
    assert all(set(by) == {"ours", "hf"} for by in found["seconds"].values())
