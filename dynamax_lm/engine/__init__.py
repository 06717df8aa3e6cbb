"""How requests run through a decoder with exits, over the definitions of ``core``; torch alone.

Read in this order to follow a request to its answer:

1. ``requests``: what to generate, and a row's answer so far; ``reading``: what a pass reads of the
   logits. ``stateful_stack``: a decoder whose states are copied and restored.
2. ``prefill``: prompts, what they begin with alike run once; with a prompt exit they skip layers.
   ``sources``: prompt states and full-depth passes, computed or taken from another call's.
3. ``score``: log-likelihoods of given continuations in one parallel pass.
4. ``generate``: generation in batches. ``decode`` runs rows segment by segment, each at its own
   token, by ``segment``; ``scheduler`` determines which run next, ``flight`` and ``state_size``
   how many.
   ``lossless``: self-speculative decoding; ``draft_length``: how far a row drafts;
   ``draft_costs``: what its rounds cost.
5. ``head_session``: the state of trained heads over a batch.
6. ``reference``: the full-depth model's tokens and answers, with which agreement and consistency
   compare. ``phase_timer``: the seconds of each part.
7. ``exit_probe``: every exit on every token in one full-depth pass, for the tools;
   ``calibration``: with it, the inputs for which a cheap look is factored.
"""
