"""FLOPs of each kind of layer, from the numbers of a configuration; imports no torch."""
