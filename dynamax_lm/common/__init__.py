"""Code that all parts share: errors, files written whole, intervals, the command line."""
