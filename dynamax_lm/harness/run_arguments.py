"""The command line of ``lm_eval run``, looked at before weights load.

lm-eval continues after a file that it cannot write, so that a wrong ``--output_path`` loses a run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamax_lm.common.options import refuse_undecodable
from dynamax_lm.common.outputs import writable_folder
from dynamax_lm.harness.plugin.errors import is_lm_eval


def check_run_arguments() -> None:
    """Refuse arguments that would lose the results of ``lm_eval run``; nothing elsewhere.

    Raises:
        SettingError: an argument that is not UTF-8, or an output path that cannot be written.
    """
    if not is_lm_eval():
        return
    refuse_undecodable(sys.argv[1:])
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--output_path", "-o")
    try:
        given = parser.parse_known_args(sys.argv[1:])[0].output_path
    except argparse.ArgumentError:
        return  # lm-eval's own parser tells
    if given is not None:
        path = Path(given)  # one that ends in .json names the file itself
        writable_folder(path.parent if path.suffix == ".json" else given)
