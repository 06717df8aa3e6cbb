"""Decoders as layer stacks over transformers' own modules, and what is known of checkpoints."""
