"""Heads for a real checkpoint: collection, training, comparison and what is shipped.

The study of SmolLM2-135M-Instruct in ``docs/real-model.md``. States, accounts and statistics are
those of ``benchmarks.criteria``.
"""
