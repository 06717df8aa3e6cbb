"""``python -m dynamax_lm``: lm-eval's own command line, also where start-up hooks do not run."""

from __future__ import annotations

import sys

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import nearest_option, unknown_options
from dynamax_lm.harness.command_line import lm_eval_help, option_names
from dynamax_lm.harness.plugin.hook import force
from dynamax_lm.harness.run_arguments import check_run_arguments

_WRONG_OPTION = 2
"""The exit status of lm-eval's parser."""


def main() -> None:
    """Connect the plugin and hand over to lm-eval."""
    try:
        check_run_arguments()  # lm-eval takes seeds before it makes a model
    except SettingError as error:
        sys.exit(f"dynamax_lm: error: {error}")
    if {"-h", "--help"} & set(sys.argv[1:]):
        lm_eval_help()  # ends here; what else a run imports would take a second more
    force()
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except SystemExit as ended:
        if ended.code == _WRONG_OPTION and (meant := _meant()):
            sys.stderr.write(f"dynamax_lm: {meant[0]} is unknown: did you mean {meant[1]}?\n")
        raise


def _meant() -> tuple[str, str] | None:
    """The first option that this sub-command of lm-eval lacks, and the nearest that it has."""
    known = option_names(sys.argv[1])
    return nearest_option(unknown_options(sys.argv[1:], known), known)


if __name__ == "__main__":
    main()
