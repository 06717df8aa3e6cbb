"""Finds the threshold that saves most while a risk stays bounded, and says how sure that is."""
