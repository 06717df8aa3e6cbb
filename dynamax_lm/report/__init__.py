"""Reports: what any mix of results folders says, as tables, pictures and pages.

Reads the files that lm-eval and this package write, and needs no model, no torch and no network.
`load` reads, `rows` says what was measured, `static`, `pareto` and `paired` compare, `verify`
recomputes, and `tables`, `pictures`, `page` and `tokens` show.
"""
