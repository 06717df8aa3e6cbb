"""``python -m dynamax_lm``: lm-eval's own command line, also where start-up hooks do not run."""

from __future__ import annotations

import sys

from dynamax_lm.common.errors import SettingError
from dynamax_lm.harness.command_line import lm_eval_help
from dynamax_lm.harness.plugin.hook import force
from dynamax_lm.harness.run_arguments import check_run_arguments


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

    cli_evaluate()


if __name__ == "__main__":
    main()
