"""DYNAMAX's experiment (arXiv 2504.20922): three classifiers, two backbones, three tasks.

Its numbers, exits, thresholds and k of the relaxed label are not known to us; what is chosen here
stands in the results, and every choice is an option.
"""
