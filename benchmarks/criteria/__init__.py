"""Comparison of confidence measures and trained heads under equal conditions.

One backbone, one set of exits, one ledger. Full-depth hidden states are collected once; every
measure is then evaluated on the same states, and the error that skipped states add is measured by
the engine.
"""
