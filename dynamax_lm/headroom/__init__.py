"""``python -m dynamax_lm.headroom``: how early a model could leave at best, before any training."""
