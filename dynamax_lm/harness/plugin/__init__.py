"""Registers this package's models and tasks with lm-eval."""
