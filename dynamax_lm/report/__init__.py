"""Reports over any set of results folders, as tables, pictures and pages.

A report reads the files that lm-eval and this package write, and needs no model, no torch and no
network. `load` reads, `rows` extracts measured values, `static_baseline`, `pareto` and `paired`
compare, `verify` recomputes, and `tables`, `pictures`, `page` and `tokens` render.
"""
