"""Everything that reaches into lm-eval: hooks, added metrics, reference answers, response caches.

Data driven: it acts on responses that carry records and leaves all other models' runs as they were.
It does not know how a record was made.
"""
