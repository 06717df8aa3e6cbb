"""``python -m dynamax_lm.generate``: stream an answer, each token coloured by its exit.

A script, not a module to import: ``dynamax_lm.generate`` is the function of the engine. The command
is in ``play.command``.
"""

from dynamax_lm.harness.command_line import run_command
from dynamax_lm.play.command import main

if __name__ == "__main__":
    run_command(main)
