"""Rows of the benchmark's tables, and the files they are written to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dynamax_lm.common.outputs import write_json, write_text
from dynamax_lm.common.processor import processor_name


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        part: which measurement.
        model: architecture and number format.
        what: the work, in words.
        meaning: of ``ratio``, in words.
        ratio: the result.
        goal: bound on ``ratio``, or ``None`` without one.
        at_most: whether the goal is an upper bound.
        seconds: medians behind it (bytes for memory), by candidate.
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
    """The machine of a measurement."""

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
            processor_name(),
            os.cpu_count() or 1,
            torch.get_num_threads(),
            gpu,
            torch.__version__,
            transformers.__version__,
            bandwidth,
        )

    def sentence(self) -> str:
        """A line of text."""
        return (
            f"{self.accelerator or self.processor}, {self.cores} cores, {self.threads} threads, "
            f"torch {self.torch}, transformers {self.transformers}, "
            f"reads {self.bandwidth / 1e9:.1f} GB/s"
        )


HEADINGS = ["model", "what", "ratio of", "ratio", "goal", "met", "medians"]


@dataclass(frozen=True, slots=True)
class Products:
    """The products chosen for a model's layers, and why.

    Attributes:
        model: architecture and number format.
        chosen: as ``ChosenProducts.describe`` has it.
    """

    model: str
    chosen: dict[str, Any]

    def lines(self) -> list[str]:
        """A row of a table for each shape and row count."""
        found = []
        for shape in self.chosen["shapes"]:
            size = f"{shape['outputs']} x {shape['inputs']}, {shape['layers']} layers"
            for one in shape["measured"]:
                times = ", ".join(f"{name} {us:g} µs" for name, us in one["microseconds"].items())
                errors = ", ".join(f"{name} {error:g}" for name, error in one["errors"].items())
                found.append(_line([self.model, size, str(one["rows"]), times, errors, ""]))
            reason = f"{shape['chosen']}: {shape['why']}"
            found.append(_line([self.model, size, "all", "", "", reason]))
        return found


PRODUCTS_HEADINGS = ["model", "weight", "rows", "medians", "errors of F.linear's", "chosen"]


def markdown(
    rows: Sequence[Row], hardware: Hardware, command: str, products: Sequence[Products] = ()
) -> str:
    """All rows as one Markdown page, a table for each part, and one for the products chosen."""
    lines = [f"    {command}", "", hardware.sentence() + ".", ""]
    for part in dict.fromkeys(row.part for row in rows):
        lines += [f"## {part}", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
        lines += [_line(row.cells()) for row in rows if row.part == part]
        lines.append("")
    if products:
        lines += ["## Products", "", _line(PRODUCTS_HEADINGS)]
        lines.append(_line(["---"] * len(PRODUCTS_HEADINGS)))
        lines += [line for one in products for line in one.lines()]
        lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write(
    folder: Path,
    rows: Sequence[Row],
    hardware: Hardware,
    command: str,
    products: Sequence[Products] = (),
) -> Path:
    """Write ``bench.json`` and ``bench.md``, whole or not at all; returns the latter."""
    known = {
        "command": command,
        "hardware": asdict(hardware),
        "rows": [asdict(row) | {"met": row.met} for row in rows],
        "products": [asdict(one) for one in products],
    }
    write_json(folder / "bench.json", known, indent=1)
    page = folder / "bench.md"
    write_text(page, markdown(rows, hardware, command, products))
    return page
