"""The run-wide block, ``results["config"]["early_exit"]``, and the warning that may go with it.

It has the totals, settings and notes that a results file contains in addition to the tables.
"""

from __future__ import annotations

import logging
from typing import Any

from dynamax_lm.core.ledger import CONVENTION as FLOPS_CONVENTION
from dynamax_lm.core.trace import Noise
from dynamax_lm.harness.certified import certificate_block, warn_of_uncertified
from dynamax_lm.harness.run_registry import Run, run_of

LOW_AGREEMENT = 0.9

CONVENTION = (
    "layers_used counts decoder layers run for an emitted token, 1..L. The prompt without its last "
    "token is prefilled at full depth, or with prompt_exit through so many layers, whose output "
    "gives the layers above their state. "
    "layers_used, flops_saved and agreement are over the tokens "
    "that give the returned text at least one character, white space at its end aside (in "
    "scoring: the continuation's); under "
    "with_stop they are over all generated tokens, up to and including the stop, and stop_share is "
    "the share of these that make the stop alone. flops_saved counts answer tokens only; "
    "flops_saved_total has the prompt in both. agreement is the share of emitted tokens equal to "
    "the full-depth model's most likely token after the same prefix; a token that ran every layer "
    "over a state that no exit has touched (under recompute: over a restored one; in "
    "mode=lossless: alone, not in a draft's verification) is that token by definition. "
    "agreement_noise is how often the reference's parallel pass differs on such tokens: what "
    "rounding alone may take off agreement elsewhere. An answer is empty if its text has no "
    "character but white space; distinct_answers are counted within each task. The tables average "
    "per-document values, without documents that have none; the values here pool tokens. "
    "The reference is never billed. " + FLOPS_CONVENTION
)

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings


def early_exit_block(lm: object) -> dict[str, Any]:
    """The block for ``results["config"]["early_exit"]``; call it from ``get_model_info()``.

    lm-eval calls it after the last task, on the process that prints. It logs one warning for a run
    of low agreement.

    Args:
        lm: the announced model.

    Returns:
        JSON values; empty before the model has been announced.
    """
    run = run_of(lm)
    if run is None:
        return {}
    certificate = certificate_block(run.live.certificate, run.live.settings, run.setups)
    _warn(run, certificate)
    totals = run.totals.to_json()
    return {
        "settings": dict(run.live.settings),
        "fingerprint": run.live.fingerprint,
        "identity": dict(run.live.identity),
        "layers": run.live.layers,
        "costs": dict(run.live.costs),
        **totals,
        "certificate": certificate,
        "skipped": {task: dict(notes) for task, notes in sorted(run.skipped.items())},
        "convention": CONVENTION,
    }


def _tell_noise(noise: Noise) -> None:
    if noise.differing and noise.rate is not None:
        _log.info(
            "agreement has a noise floor: on %d of %d tokens (%.2g %%) that are full depth's by "
            "definition, the reference's parallel pass rounds to another token",
            *(noise.differing, noise.compared, 100 * noise.rate),
        )


def _warn(run: Run, certificate: dict[str, Any] | None) -> None:
    if run.warned:
        return
    run.warned = True
    settings = run.live.settings
    if settings.get("mode") == "exit" and settings.get("exit_rule") != "fixed_depth":
        warn_of_uncertified(certificate)  # full depth and baselines need no certificate
    _tell_noise(run.totals.total.noise)
    _warn_of_texts(run)
    agreement = run.totals.total.text.agreement
    if agreement is None or agreement >= LOW_AGREEMENT:
        return
    _log.warning(
        "only %.1f %% of the emitted tokens are the full-depth model's: "
        "`python -m dynamax_lm.headroom` shows what these exits could reach, "
        "`python -m dynamax_lm.heads.train` trains better ones",
        100 * agreement,
    )


def _warn_of_texts(run: Run) -> None:
    """One line on answers without text, one on answers that are mostly equal."""
    found = {name: totals.texts for name, totals in sorted(run.totals.tasks.items())}
    total = run.totals.total.texts
    if total.empty:
        parts = (f"{name} {one.empty} of {one.answers}" for name, one in found.items() if one.empty)
        _log.warning(
            "%d of %d answers are empty (%s): their depths, savings and agreement say nothing of "
            "answers; give examples (--num_fewshot) or --apply_chat_template",
            *(total.empty, total.answers, ", ".join(parts)),
        )
    few = [f"{name} {one.distinct} to {one.answers}" for name, one in found.items() if one.few]
    if few:
        _log.warning(
            "few distinct answers (%s questions): what answers them all alike agrees with full "
            "depth easily",
            ", ".join(few),
        )
