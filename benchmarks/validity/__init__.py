"""Experiments behind docs/validity.md: claims compared with known truth."""
