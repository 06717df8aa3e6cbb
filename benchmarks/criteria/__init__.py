"""What confidence measures and trained heads are worth, like for like.

One backbone, one set of exits, one ledger. Full-depth hidden states are collected once; every
measure is then judged from the same states, and what skipped state adds is measured by the engine.
"""
