"""Selects the threshold with the largest saving whose risk is bounded with high probability."""
