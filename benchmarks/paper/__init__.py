"""DYNAMAX's experiment (arXiv 2504.20922): three classifiers, two backbones, three tasks.

Its numbers, exits, thresholds and k of the relaxed label are not known; the choices made here
are recorded in the results, and each is an option.
"""
