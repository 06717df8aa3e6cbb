"""Experiments that show whether the package's verdicts are right, each a module with a command."""
