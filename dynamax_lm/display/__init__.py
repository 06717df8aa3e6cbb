"""Answers and exits as HTML and figures, for notebooks and pages."""
