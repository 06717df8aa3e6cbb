"""``python -m dynamax_lm.heads.train``: exit heads for a frozen model, from text to a folder.

    python -m dynamax_lm.heads.train --model dynamax-mamba --model_args pretrained=tiny \
        --head mamba --data FILE_OR_HUB_ID --output_path heads/my-heads --max_steps 2000

Options are read before torch is imported, so that help and wrong options are answered at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from dynamax_lm.heads.train.options import read_options


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: errors are one line, and a signal ends it with 128 + its number."""
    from dynamax_lm.harness.plugin.errors import install_one_line_errors

    install_one_line_errors()
    read_options(argv)
    from dynamax_lm.heads.train.command import train
    from dynamax_lm.heads.train.stopping import Stopped

    try:
        train(argv)
    except Stopped as stopped:
        sys.stderr.write(f"dynamax_lm: {stopped}\n")
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:  # before the first step, or after the last
        sys.stderr.write("dynamax_lm: interrupted; the same command goes on\n")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
