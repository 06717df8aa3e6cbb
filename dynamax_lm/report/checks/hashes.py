"""Recomputation of lm-eval's hashes of documents, prompts and targets.

As in lm-eval 0.4.13 (``evaluator.evaluate`` and ``EvaluationTracker``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.runs import Run, Sample


def check_hashes(
    where: str, run: Run, task: str, samples: Sequence[Sample], found: Verification
) -> None:
    """The hashes of every sample, and the one over all of a task's samples."""
    for sample in samples:
        doc, prompt, target = sample.hashes
        name = f"{where} document {sample.doc_id}"
        found.compare(f"{name} doc_hash", doc, _document(sample.doc))
        if sample.prompts:
            found.compare(f"{name} prompt_hash", prompt, _hash(sample.prompts[0]))
        found.compare(f"{name} target_hash", target, _hash(sample.target))
    whole = _hash("".join("".join(sample.hashes) for sample in samples))
    found.compare(f"{where} task_hashes", run.of_task("task_hashes", task), whole)


def _document(doc: object) -> str:
    return _hash(json.dumps(doc, indent=2, ensure_ascii=False))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
