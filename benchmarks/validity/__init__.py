"""Experiments behind docs/validity.md: what is claimed, held against known truth."""
