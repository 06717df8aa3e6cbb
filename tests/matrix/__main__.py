"""Uses every feature on every decoder, and prints the matrix of ``docs/models.md``.

python -m tests.matrix
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import pytest

from tests.decoders.tiny_families import DECODERS
from tests.matrix.features import FEATURES, Bench, matrix, outcome
from tests.quick import only_toys_alone


def main() -> None:
    """Use and print."""
    cells = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(sys.stderr):
        only_toys_alone(patch)
        for family in sorted(DECODERS):
            with tempfile.TemporaryDirectory() as folder:
                bench = Bench.of(family, Path(folder))
                cells[family] = {feature: outcome(feature, bench) for feature in FEATURES}
    sys.stdout.write(matrix(cells) + "\n")


if __name__ == "__main__":
    main()
