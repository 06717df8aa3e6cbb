"""Faults, provoked: what killed commands leave behind, and how resumed ones end."""
