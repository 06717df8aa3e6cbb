"""Early exit, and the meaning of every number. It uses torch alone, and nothing else of ours.

Read in this order to follow every number of the results table from a logit to its cell:

1. ``trace``: the record of each emitted token and each answer, and the items of a FLOPs bill.
2. ``measures``: the confidence measures, what they read and what a check costs; ``looks``: logits
   from fewer products than the vocabulary projection, and theirs.
3. ``stack``: the protocol of a decoder that runs layer by layer; ``pending``: tokens of its state
   whose last layers have not run.
4. ``exit_view``: hidden states and logits at an exit. ``confidence`` computes the measures from
   them, ``cheap_look`` the logits of a look.
5. ``prompt_maps``: where prompts exit, and what the layers above read. ``thresholds`` and
   ``policy``: from a threshold or an exit rule to the decision that a token exits.
6. ``loop``: one pass through the layers with exits (generated tokens run through the same checks,
   segment by segment, in ``engine.decode``); ``exit_check``: what happens at each exit.
   ``exited_tokens`` and ``catchup`` determine which layers an exited token still runs, now or
   later; ``skipped_states`` has the names of what fills the others, and policies from outside the
   package.
7. ``full_depth``: which tokens are the full-depth model's by definition; agreement compares with
   them.
8. ``costs``: the FLOPs of a decoder's parts, and ``ledger``: of an answer; ``fixed_depth``: those
   of a fixed-depth baseline.
9. ``texts``, ``drafts`` and ``totals``: pooled counts. ``summary``: from traces and bills to the
   values of the results table.

``engine`` batches requests and runs them: ``engine.score`` and ``engine.generate`` fill the traces,
``engine.reference`` their full-depth tokens, and ``engine.exit_probe`` evaluates every exit on
every token for the tools. Which tokens exit, and what they cost, is decided here.

Four things come from elsewhere: the task's own metrics and all standard errors from lm-eval;
``full_depth_<metric>``, the task's metric on full depth's answer, from ``harness.reference``; the
FLOPs of one layer of each kind, with which ``costs`` is filled, from ``decoders.costs``; and which
tokens belong to the text before the stop (text_tokens) from ``models.stops``.
"""
