"""``python -m dynamax_lm``: lm-eval's own command line, also where start-up hooks do not run."""

from __future__ import annotations


def main() -> None:
    """Connect the plugin and hand over to lm-eval."""
    from dynamax_lm.harness.plugin.hook import force

    force()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
