"""``python -m dynamax_lm.sweep``: many settings of one loaded model, each an lm-eval run."""
