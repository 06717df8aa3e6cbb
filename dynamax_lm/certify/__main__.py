"""``python -m dynamax_lm.certify``."""

from __future__ import annotations

from dynamax_lm.certify.cli import main
from dynamax_lm.harness.command_line import run_command


def _main(arguments: list[str]) -> None:
    main(arguments)


if __name__ == "__main__":
    run_command(_main)
