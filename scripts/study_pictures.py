"""Pictures of the studies for the documentation, drawn from their published results.

``python scripts/study_pictures.py`` makes ``criteria-tiny-mistral.png``,
``criteria-tiny-mamba.png``, ``real-rules.png``, ``real-curve.png`` and ``paper-tiny.png`` in
``docs/pictures`` anew. Nothing is measured again. The paper's experiment is read from the tables of
its page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.criteria.report import draw as draw_rules
from benchmarks.paper.report import draw as draw_paper
from benchmarks.real.report import draw_curve
from dynamax_lm.common.outputs import write_bytes

ROOT = Path(__file__).resolve().parents[1]
_CRITERIA, _REAL = ROOT / "benchmarks/criteria/results", ROOT / "benchmarks/real/results"
_REAL_STUDY = "smollm2-affine-317k.json"
_HEADING = re.compile(r"### (?P<backbone>.+), `(?P<task>\w+)`")


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs/pictures")
    given = parser.parse_args()
    for name, draw in DRAWN.items():
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.png"
            draw(path)
            write_bytes(given.pictures / path.name, path.read_bytes())
        print(given.pictures / f"{name}.png")


def rows_of_page(text: str) -> Iterator[dict[str, Any]]:
    """The rows of the tables of ``docs/paper.md``, as its picture needs them.

    Args:
        text: Markdown as ``benchmarks.paper.report.markdown`` writes it.
    """
    place: dict[str, str] = {}
    for line in text.splitlines():
        if (heading := _HEADING.match(line)) is not None:
            place = heading.groupdict()
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not place or len(cells) != 8 or not cells[1].startswith("`"):
            continue
        classifier, state, threshold, _, saved, agreement, *_ = cells
        yield place | {
            "classifier": classifier,
            "state": state.strip("`"),
            "threshold": float(threshold),
            "flops_saved": _share(saved),
            "agreement": _share(agreement),
        }


def _share(cell: str) -> float:
    """The mean of ``45.4 ± 0.2 %`` or ``45.4 %``, as a share."""
    return float(cell.split()[0]) / 100


def _results(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _paper(path: Path) -> None:
    draw_paper(list(rows_of_page((ROOT / "docs/paper.md").read_text(encoding="utf-8"))), path)


DRAWN: dict[str, Callable[[Path], None]] = {
    "criteria-tiny-mistral": lambda path: draw_rules(
        _results(_CRITERIA / "tiny-mistral.json"), path
    ),
    "criteria-tiny-mamba": lambda path: draw_rules(_results(_CRITERIA / "tiny-mamba.json"), path),
    "real-rules": lambda path: draw_rules(_results(_REAL / _REAL_STUDY), path),
    "real-curve": lambda path: draw_curve(_results(_REAL / _REAL_STUDY)["curve"], path),
    "paper-tiny": _paper,
}


if __name__ == "__main__":
    main()
