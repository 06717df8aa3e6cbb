"""Decoders as stacks of layer adapters over transformers' modules, and checks of checkpoints."""
