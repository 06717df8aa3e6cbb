"""Adapters over transformers' decoders, and the lm-eval models that use them."""
