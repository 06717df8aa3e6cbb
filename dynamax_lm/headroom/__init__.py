"""``python -m dynamax_lm.headroom``: the savings of an oracle exit policy, before any training."""
