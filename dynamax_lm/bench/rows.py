"""What a measurement says, and the files it is written to.

Owns the table. It does not measure.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        part: which measurement.
        model: architecture and number format.
        what: the work, in words.
        meaning: what ``ratio`` is, in words.
        ratio: the number that counts.
        goal: bound on ``ratio``, or ``None`` without one.
        at_most: whether the goal is an upper bound.
        seconds: medians behind it (bytes for memory), by contestant.
    """

    part: str
    model: str
    what: str
    meaning: str
    ratio: float
    goal: float | None = None
    at_most: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def cells(self) -> list[str]:
        """The row of a table."""
        bound = "" if self.goal is None else f"{'≤' if self.at_most else '≥'} {self.goal:g}"
        met = {None: "", True: "yes", False: "no"}[self.met]
        behind = ", ".join(f"{name} {_amount(value)}" for name, value in self.seconds.items())
        return [self.model, self.what, self.meaning, f"{self.ratio:.2f}", bound, met, behind]


def _amount(value: float) -> str:
    if value >= 1e6:
        return f"{value / 2**20:.0f} MiB"
    return f"{value * 1e3:.3g} ms" if value < 10 else f"{value:.3g} s"


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where it was measured."""

    processor: str
    cores: int
    threads: int
    accelerator: str | None
    torch: str
    transformers: str
    bandwidth: float

    @classmethod
    def here(cls, bandwidth: float) -> Hardware:
        """This machine; ``bandwidth`` as measured, bytes a second."""
        import transformers

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        return cls(
            _processor(),
            os.cpu_count() or 1,
            torch.get_num_threads(),
            gpu,
            torch.__version__,
            transformers.__version__,
            bandwidth,
        )

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.accelerator or self.processor}, {self.cores} cores, {self.threads} threads, "
            f"torch {self.torch}, transformers {self.transformers}, "
            f"reads {self.bandwidth / 1e9:.1f} GB/s"
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


HEADINGS = ["model", "what", "ratio of", "ratio", "goal", "met", "medians"]


def markdown(rows: Sequence[Row], hardware: Hardware, command: str) -> str:
    """All rows as one Markdown page, a table for each part."""
    lines = [f"    {command}", "", hardware.sentence() + ".", ""]
    for part in dict.fromkeys(row.part for row in rows):
        lines += [f"## {part}", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
        lines += [_line(row.cells()) for row in rows if row.part == part]
        lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write(folder: Path, rows: Sequence[Row], hardware: Hardware, command: str) -> Path:
    """Write ``bench.json`` and ``bench.md``, whole or not at all; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {
        "command": command,
        "hardware": asdict(hardware),
        "rows": [asdict(row) | {"met": row.met} for row in rows],
    }
    _replace(folder / "bench.json", json.dumps(known, indent=1) + "\n")
    page = folder / "bench.md"
    _replace(page, markdown(rows, hardware, command))
    return page


def _replace(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
