"""From lm-eval's requests to those of the engine: tokens, truncation of prompts, windows, seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.identity import digest
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest
from dynamax_lm.models.sampling import (
    RowChooser,
    derive_seed,
    generation_config,
    refusing,
    stop_ids,
)
from dynamax_lm.models.stops import Decode, StopRule, tokens_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM


def fit_score(context: Sequence[int], continuation: Sequence[int], max_length: int) -> ScoreRequest:
    """A request cut from the left to the model's context, as the ``hf`` model cuts it.

    Raises:
        SettingError: the continuation alone does not fit.
    """
    if len(continuation) > max_length:
        raise SettingError(
            f"a continuation of {len(continuation)} tokens does not fit max_length={max_length}; "
            f"raise max_length"
        )
    kept = [*context, *continuation][-(max_length + 1) :]
    return ScoreRequest(tuple(kept[: -len(continuation)]), tuple(continuation))


def rolling_windows(lm: HFLM, text: str) -> list[ScoreRequest]:
    """The disjoint windows whose log-likelihoods add up to that of ``text``."""
    windows = get_rolling_token_windows(
        token_list=lm.tok_encode(text),
        prefix_token=lm.prefix_token_id,
        max_seq_len=lm.max_length,
        context_len=1,
    )
    pairs = map(make_disjoint_window, windows)
    return [fit_score(context, tokens, lm.max_length) for context, tokens in pairs]


class TextRequest(NamedTuple):
    """A generation request of the engine, and its stop sequences.

    Attributes:
        request: of the engine.
        until: stop sequences, cut from the text afterwards.
    """

    request: GenerateRequest
    until: list[str]


class _Options(NamedTuple):
    """What the options of a request resolve to, whatever its prompt.

    Attributes:
        kwargs: options of transformers' ``generate``.
        until: stop sequences.
        stops: the rule that ends an answer.
        max_new: largest number of generated tokens.
        max_length: of prompt and answer together, in place of ``max_new``; ``None`` if not given.
        room: largest number of tokens of a prompt.
        config: transformers' generation configuration.
    """

    kwargs: dict[str, Any]
    until: list[str]
    stops: StopRule
    max_new: int
    max_length: Any
    room: int
    config: Any


class TextRequests:
    """Resolves generation requests as the ``hf`` model does; equal options are resolved once.

    Args:
        lm: tokenizer, limits and model.
    """

    def __init__(self, lm: HFLM) -> None:
        self._lm = lm
        self._known: dict[str, _Options] = {}

    def resolve(self, context: str, gen_kwargs: dict[str, Any], seed: int) -> TextRequest:
        """Resolve one request.

        Args:
            context: the prompt's text.
            gen_kwargs: the task's, overridden by the user's.
            seed: for this document and repeat.

        Raises:
            SettingError: an option that is not supported, or no room for the prompt.
        """
        lm, options = self._lm, self._options(gen_kwargs)
        ids, mask = lm.tok_batch_encode(
            [context], left_truncate_len=options.room, truncation=lm.truncation
        )
        prompt = tuple(ids[0][mask[0].bool()].tolist()) or (lm.prefix_token_id,)
        max_new = options.max_new
        if options.max_length is not None:
            with refusing({"max_length": options.max_length}):
                max_new = int(options.max_length) - len(prompt)  # max_gen_toks cuts prompts only
            if max_new < 1:
                raise SettingError(
                    f"max_length={options.max_length} in gen_kwargs counts the prompt too, and one "
                    f"has {len(prompt)} tokens; give max_gen_toks instead"
                )
        with refusing(options.kwargs):
            options.config.max_length = len(prompt) + max_new  # where generate forces a last token
            chooser = RowChooser(lm.model, options.config, prompt, seed)
        own = None if chooser.plain else seed
        request = GenerateRequest(
            prompt=prompt,
            max_new=max_new,
            stops=options.stops,
            chooser=None if chooser.plain else chooser,
            key=digest(prompt, max_new, options.until, options.kwargs, own),
        )
        return TextRequest(request, options.until)

    def _options(self, gen_kwargs: dict[str, Any]) -> _Options:
        key = repr(gen_kwargs)
        if key not in self._known:
            self._known[key] = self._resolved(gen_kwargs)
        return self._known[key]

    def _resolved(self, gen_kwargs: dict[str, Any]) -> _Options:
        lm = self._lm
        with refusing(gen_kwargs):
            kwargs: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, lm.max_gen_toks))
        end = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(_texts(kwargs.pop("until", None)), eos=end)
        max_new = int(kwargs.pop("max_gen_toks"))
        room = lm.max_length - max_new
        if room < 1:
            raise SettingError(
                f"max_gen_toks={max_new} leaves no room for a prompt within max_length="
                f"{lm.max_length}; lower max_gen_toks"
            )
        if max_new < 1:
            raise SettingError(f"max_gen_toks={max_new}: at least one token must be generated")
        max_length = kwargs.pop("max_length", None)
        with refusing(kwargs):
            config = generation_config(lm.model, kwargs)
            stops = StopRule(lm.tokenizer, until, stop_ids(config))
        return _Options(kwargs, until, stops, max_new, max_length, room, config)


def _texts(until: list[Any] | None) -> list[str]:
    """Stop sequences as given; ``null`` is none.

    Raises:
        SettingError: one that is no text.
    """
    given = [one for one in until or () if one is not None]
    for one in given:
        if not isinstance(one, str):
            raise SettingError(f"gen_kwargs until={one!r}: give a text, or a list of texts")
    return given


def answer_text(lm: HFLM, tokens: Sequence[int], until: list[str]) -> str:
    """An answer's text: decoded, thinking removed, cut at its stop."""
    ids = list(tokens)
    think_end = lm.think_end_token
    if isinstance(think_end, int) and think_end in ids:
        ids = ids[len(ids) - ids[::-1].index(think_end) :]
    text = lm.tok_decode(ids)
    if isinstance(think_end, int):
        text = text.lstrip()
    cut: str = postprocess_generated_text(
        generation=text,
        stop=until,
        think_end_token=think_end if isinstance(think_end, str) else None,
    )
    return cut


def cut_at_stop(text: str, until: Sequence[str]) -> str:
    """The text before its stop sequence, as the ``hf`` model truncates it."""
    kept: str = postprocess_generated_text(text, stop=list(until), think_end_token=None)
    return kept


def text_tokens(tokens: Sequence[int], decode: Decode, until: Sequence[str]) -> int:
    """How many of an answer's first tokens make the text before its stop sequence.

    The rest are the tokens of a stop sequence, an end-of-sequence token, which decodes to nothing,
    and white space before them, by which most stop sequences begin. (Where an answer ends with a
    blank line and ``Q:``, and the stop sequence is a line break and ``Q:``, the returned text keeps
    the first of the two line breaks.)

    Args:
        tokens: an answer's token ids, its stop among them.
        decode: gives their text.
        until: stop sequences.
    """
    return tokens_of(cut_at_stop(decode(list(tokens)), until).rstrip(), tokens, decode)


def answer_text_tokens(lm: HFLM, tokens: Sequence[int], until: list[str]) -> int:
    """How many of an answer's first tokens make its text: all before the stop.

    Reasoning tokens that the returned text omits are counted: only the stop sequence is excluded.
    """
    ids = list(tokens)
    think_end = lm.think_end_token
    if isinstance(think_end, int):
        thought = len(ids) - ids[::-1].index(think_end) if think_end in ids else 0
        return thought + text_tokens(
            ids[thought:], lambda some: str(lm.tok_decode(some)).lstrip(), until
        )
    whole: str = lm.tok_decode(ids)
    answer = whole
    if think_end:
        answer = whole.rpartition(think_end)[2].lstrip()
    thinking = whole[: len(whole) - len(answer)]
    return tokens_of((thinking + cut_at_stop(answer, until)).rstrip(), ids, lm.tok_decode)


def row_seeds(requests: Sequence[Instance], base: int) -> list[int]:
    """One seed per document, request and repeat; independent of batch size and order."""
    seen: Counter[int] = Counter()
    seeds = []
    for request in requests:
        repeat = seen[id(request)]
        seen[id(request)] += 1
        seeds.append(derive_seed(base, request.task_name, request.doc_id, request.idx, repeat))
    return seeds
