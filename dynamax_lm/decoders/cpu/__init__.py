"""Matrix products, norms and memory on a CPU, each equal to a reference operation to rounding."""
