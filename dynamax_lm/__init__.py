"""Early-exit language models inside lm-evaluation-harness. Importing this loads nothing heavy."""

__version__ = "0.1.0"

__all__ = ["__version__"]
