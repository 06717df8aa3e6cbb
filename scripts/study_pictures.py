"""Pictures of the studies for the documentation, drawn from their published results.

``python scripts/study_pictures.py`` makes ``criteria-tiny-mistral.png``,
``criteria-tiny-mamba.png``, ``real-rules.png``, ``real-curve.png`` and ``paper-….png`` in
``docs/pictures`` anew. Nothing is measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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
_PAPER = ROOT / "benchmarks/paper/results"


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


def _results(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


DRAWN: dict[str, Callable[[Path], None]] = {
    "criteria-tiny-mistral": lambda path: draw_rules(
        _results(_CRITERIA / "tiny-mistral.json"), path
    ),
    "criteria-tiny-mamba": lambda path: draw_rules(_results(_CRITERIA / "tiny-mamba.json"), path),
    "real-rules": lambda path: draw_rules(_results(_REAL / _REAL_STUDY), path),
    "real-curve": lambda path: draw_curve(_results(_REAL / "smollm2-curve.json")["curve"], path),
    "paper-real": lambda path: draw_paper(_results(_PAPER / "smollm2.json"), path),
    "paper-tiny": lambda path: draw_paper(_results(_PAPER / "tiny.json"), path),
}


if __name__ == "__main__":
    main()
