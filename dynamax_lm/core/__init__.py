"""Early exit, from these files alone.

torch only: nothing here knows lm-eval, transformers, a file, a sweep or an architecture. Read in
this order:

1. ``trace``: what is recorded of each emitted token, and the FLOPs of an answer by item.
2. ``confidence`` and ``policy``: how sure an exit is, and when a token exits.
3. ``stack``: what a decoder must offer to be run layer by layer.
4. ``loop``: one pass through the layers with exits; ``departures``, ``pending`` and ``catchup``:
   what happens to the layers that an exited token skipped.
5. ``prefill``, ``decode``, ``generate`` and ``score``: generation and log-likelihood scoring.
6. ``ledger``: the FLOPs of an answer.
7. ``summary``: from traces to the numbers in the results table.
"""
