"""Trains the two small language models that ship inside the package."""
