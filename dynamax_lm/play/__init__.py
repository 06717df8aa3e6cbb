"""Answers token by token: streamed in a terminal, in a notebook, and as a page."""
