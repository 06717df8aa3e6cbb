"""The early-exit algorithm. It uses torch alone, and imports nothing else of the package.

Read in this order to follow every number of the results table from a logit to its cell:

1. ``trace``: the record of each emitted token and each answer, and the items of a FLOPs bill.
2. ``measures`` and ``confidence``: the confidence measures, their costs and their computation.
   ``looks`` and ``cheap_look``: logits from fewer products than the vocabulary projection.
   ``thresholds`` and ``policy``: from a threshold or an exit rule to the decision that a token
   exits.
3. ``stack``: the protocol of a decoder that runs layer by layer.
4. ``loop``: one pass through the layers with exits. ``exit_view`` and ``head_session`` give a
   measure its logits, hidden states and trained heads; ``exited_tokens``, ``pending`` and
   ``catchup`` determine which layers an exited token still runs, now or later; ``skipped_states``
   registers policies from outside the package.
5. ``prefill`` (prompts may exit too), ``decode`` and ``generate``: generation. ``score`` and
   ``reading``: log-likelihoods. ``lossless``: self-speculative decoding. ``phase_timer``: the
   seconds of each part.
6. ``full_depth`` and ``reference``: the full-depth model's tokens and answers, with which
   agreement and consistency compare.
7. ``costs``: the FLOPs of a decoder's parts, and ``ledger``: of an answer; ``fixed_depth``: those
   of a fixed-depth baseline.
8. ``texts``, ``drafts`` and ``totals``: pooled counts. ``summary``: from traces and bills to the
   values of the results table.

``exit_probe`` evaluates every exit on every token in one full-depth pass; the tools use it.
"""
