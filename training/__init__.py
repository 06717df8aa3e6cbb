"""Training code for what ships inside the package; not part of the package itself."""
