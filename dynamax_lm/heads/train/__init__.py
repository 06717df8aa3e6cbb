"""``python -m dynamax_lm.heads.train``: train, calibrate and document exit heads."""
