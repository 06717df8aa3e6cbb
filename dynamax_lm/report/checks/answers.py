"""Checks of a document's logged answers against its tokens.

These are the relations between samples and trace: requests, ``is_greedy``, and, with a local
tokenizer, texts and lengths of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynamax_lm.common.tracefile import TraceLine
from dynamax_lm.core.summary import GENERATION, ROLLING
from dynamax_lm.report.checks.found import Verification
from dynamax_lm.report.checks.recompute import DocumentAgain
from dynamax_lm.report.checks.texts import Codec
from dynamax_lm.report.runs import Run, Sample

NO_TOKENIZER = "answers' texts from their tokens: the tokenizer is not on this machine"
_CUT_OTHERWISE = "answers' texts from their tokens: the run cuts thinking from its answers"


def check_answers(
    where: str,
    run: Run,
    task: str,
    sample: Sample,
    document: DocumentAgain,
    codec: Codec | None,
    found: Verification,
) -> None:
    """One document's responses against its rows."""
    kind = (run.of_task("configs", task) or {}).get("output_type")
    rows: dict[tuple[int, int], list[TraceLine]] = {}
    for line in document.lines:
        rows.setdefault((line.request, line.repeat), []).append(line)
    logged = {(r, n) for r, some in enumerate(sample.responses) for n in range(len(some))}
    found.compare(f"{where} requests in the trace", sorted(rows), sorted(logged))
    if kind not in {GENERATION, ROLLING}:
        _check_greedy(where, sample, document, found)
    if codec is None or kind == ROLLING:
        return
    for index, repeat in sorted(logged & rows.keys()):
        tokens = [line.token for line in rows[index, repeat]]
        name = f"{where} request {index}"
        if kind == GENERATION:
            if "think_end_token" in run.model_args or "enable_thinking" in run.model_args:
                found.leave(where, _CUT_OTHERWISE)
                continue
            stops = _stops(run, sample.options[index])
            text = codec.answer(tokens, stops)
            found.compare(f"{name} response", sample.responses[index][repeat], text)
        elif sample.continuations[index] is not None:
            text = codec.text(tokens).strip()
            found.compare(f"{name} tokens", str(sample.continuations[index]).strip(), text)
        _check_prompt(name, run, sample, index, rows[index, repeat], codec, found)


def _check_prompt(
    where: str,
    run: Run,
    sample: Sample,
    index: int,
    rows: Sequence[TraceLine],
    codec: Codec,
    found: Verification,
) -> None:
    """Number of prefilled tokens: the prompt's without the last, after truncation."""
    longest = run.data.get("max_length")
    prompt = sample.prompts[index]
    if run.data.get("chat_template") or "add_bos_token" in run.model_args or not prompt:
        return
    if not isinstance(longest, int) or isinstance(longest, bool):
        return
    options: Any = sample.options[index]
    if isinstance(options, Mapping):
        if not isinstance(options.get("max_gen_toks"), int) or "max_length" in options:
            return
        tokens, room = codec.count(prompt), longest - options["max_gen_toks"]
    else:  # trailing spaces are scored with the continuation
        tokens, room = codec.count(prompt.rstrip()), longest + 1 - len(rows)
    found.compare(f"{where} prompt_tokens", rows[0].prompt_tokens, max(0, min(tokens, room) - 1))


def _stops(run: Run, options: Any) -> list[str]:
    """The stop sequences of an answer: the request's, and the end-of-sequence token's text."""
    until = options.get("until") if isinstance(options, Mapping) else None
    stops = [until] if isinstance(until, str) else list(until or ())
    end = run.data.get("tokenizer_eos_token")
    if isinstance(end, list) and end and isinstance(end[0], str):
        stops.append(end[0])
    return [stop for stop in stops if isinstance(stop, str) and stop]


def _check_greedy(where: str, sample: Sample, document: DocumentAgain, found: Verification) -> None:
    """The logged ``is_greedy`` against the tokens, which links samples and trace."""
    greedy = document.greedy()
    for index, responses in enumerate(sample.responses):
        for repeat, response in enumerate(responses):
            if isinstance(response, list) and len(response) == 2 and (index, repeat) in greedy:
                name = f"{where} request {index} is_greedy"
                found.compare(name, str(response[1]), str(greedy[index, repeat]))
