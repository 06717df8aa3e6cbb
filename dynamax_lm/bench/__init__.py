"""Ratios of seconds, measured in one process: our engine against transformers and against limits.

Owns the measurements and their tables. It changes nothing that it measures.
"""
