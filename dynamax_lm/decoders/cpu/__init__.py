"""Products, norms and memory on a CPU, each beside the operation that it must equal."""
