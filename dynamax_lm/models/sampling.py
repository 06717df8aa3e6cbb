"""Token choice by transformers' logits processors, one row at a time.

This module has the supported ``gen_kwargs`` and the random numbers of sampling. Processors are
called per row on unpadded ids, so that padding is never penalised and a row does not depend on the
rest of the batch.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.generation.configuration_utils import GenerationMode

from dynamax_lm.common.errors import SettingError, one_line

HONOURED = frozenset(
    {
        "bad_words_ids",
        "begin_suppress_tokens",
        "do_sample",
        "eos_token_id",
        "epsilon_cutoff",
        "eta_cutoff",
        "exponential_decay_length_penalty",
        "forced_eos_token_id",
        "min_length",
        "min_new_tokens",
        "min_p",
        "no_repeat_ngram_size",
        "pad_token_id",
        "remove_invalid_values",
        "renormalize_logits",
        "repetition_penalty",
        "sequence_bias",
        "suppress_tokens",
        "temperature",
        "top_h",
        "top_k",
        "top_p",
        "typical_p",
        "use_cache",
    }
)
"""Supported generation options of transformers: they act on one row's logits, or not at all."""

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "num_return_sequences": (1, None),
    "penalty_alpha": (None, 0, 0.0),
    "guidance_scale": (None, 1, 1.0),
    "num_assistant_tokens": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "assistant_model": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "dola_layers": (None,),
    "watermarking_config": (None,),
    "early_stopping": (False, None),
    "length_penalty": (1, 1.0, None),
    "diversity_penalty": (0, 0.0, None),
    "cache_implementation": (None,),
    "return_dict_in_generate": (False, None),
    "output_scores": (False, None),
    "stop_strings": (None,),
    "custom_generate": (None,),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, 1.0, None),
    "max_time": (None,),
    "token_healing": (None, False),
}
"""Options that are refused unless they have one of these values, which disable them."""


_LENGTH_AND_STOPS = frozenset(
    {
        *("until", "max_gen_toks", "max_length"),
        *("max_new_tokens", "max_tokens", "max_completion_tokens"),
    }
)
"""Options that lm-eval and the requests read themselves."""


def refuse_unknown_options(gen_kwargs: Mapping[str, Any]) -> None:
    """Refuse, before a model is loaded, what :func:`refuse_unsupported` would refuse after.

    Raises:
        SettingError: names the option, the value, and what to use instead.
    """
    refuse_unsupported({k: v for k, v in gen_kwargs.items() if k not in _LENGTH_AND_STOPS})


def refuse_unsupported(gen_kwargs: Mapping[str, Any]) -> None:
    """Refuse options that are not supported with exits.

    Raises:
        SettingError: names the option, the value, and what to use instead.
    """
    for name, value in gen_kwargs.items():
        if name in HONOURED:
            continue
        if name in _NEUTRAL:
            if value in _NEUTRAL[name]:
                continue
            raise SettingError(
                f"gen_kwargs {name}={value!r} cannot be honoured by early exits: tokens are chosen "
                f"greedily or by sampling, one row at a time; leave {name} out"
            )
        near = difflib.get_close_matches(name, [*HONOURED, "max_gen_toks", "until"], 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(HONOURED))}"
        raise SettingError(f"gen_kwargs {name}={value!r} is not a known option{hint}")


_CHECKPOINTS_OWN: dict[str, tuple[object, ...]] = {
    "max_new_tokens": (None,),
    "max_time": (None,),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "guidance_scale": (None, 1, 1.0),
    "stop_strings": (None,),
    "token_healing": (None, False),
    "custom_generate": (None,),
}
"""Options of a checkpoint's generation configuration that would be ignored, and neutral values."""


def _check_checkpoints_own(config: Any) -> None:
    """Refuse what the checkpoint's own generation configuration asks for in vain.

    Raises:
        SettingError: names the option.
    """
    for name, neutral in _CHECKPOINTS_OWN.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise SettingError(
                f"the checkpoint's generation_config has {name}={value!r}, which early exits "
                f"cannot honour; remove it from generation_config.json"
            )


@contextmanager
def refusing(gen_kwargs: Mapping[str, Any]) -> Iterator[None]:
    """A context that turns errors of transformers or lm-eval about ``gen_kwargs`` into one line.

    Raises:
        SettingError: names the options, with the message of transformers or lm-eval.
    """
    try:
        yield
    except SettingError:
        raise
    except (TypeError, ValueError) as error:
        given = {name: value for name, value in gen_kwargs.items() if name != "until"}
        shown = ", ".join(f"{name}={value!r}" for name, value in sorted(given.items()))
        raise SettingError(
            f"gen_kwargs {shown}: a value cannot be used: {one_line(error, 200)}"
        ) from error


def generation_config(model: Any, gen_kwargs: Mapping[str, Any]) -> Any:
    """The options in force, resolved as transformers' ``generate`` resolves them."""
    refuse_unsupported(gen_kwargs)
    given = dict(gen_kwargs)
    if not given.get("do_sample"):
        given.pop("temperature", None)
        given["do_sample"] = False
    config, unknown = model._prepare_generation_config(None, **given)
    if unknown:
        raise SettingError(f"gen_kwargs {sorted(unknown)} are not options of generation")
    mode = config.get_generation_mode()  # a checkpoint's own generation_config may set others
    if mode not in {GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE}:
        raise SettingError(
            f"the checkpoint's generation_config asks for {mode.value}, which early exits cannot "
            f"honour: they choose greedily or by sampling; edit its generation_config.json"
        )
    _check_checkpoints_own(config)
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=model.device)
    return config


def stop_ids(config: Any) -> frozenset[int]:
    """End-of-sequence ids of a generation config."""
    ids = config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


class RowChooser:
    """Chooses one row's tokens; random numbers depend only on the row's seed and the step.

    Args:
        model: whose ``generate`` is reproduced.
        config: from :func:`generation_config`.
        prompt: the row's own token ids, unpadded.
        seed: of this document and repeat.
    """

    def __init__(self, model: Any, config: Any, prompt: Sequence[int], seed: int) -> None:
        self._prompt = list(prompt)
        self._sample = bool(config.do_sample)
        self._seed = seed
        self._device = model.device  # of token ids and of processors; logits may be elsewhere
        self._processors = model._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=len(self._prompt),
            device=str(self._device),
        )

    @property
    def plain(self) -> bool:
        """Whether this always chooses the most likely token."""
        return not self._sample and not len(self._processors)

    def __call__(self, answer: Sequence[int], logits: Tensor) -> int:
        """The next token after ``answer``, from raw ``logits`` (1, V)."""
        ids = torch.tensor([[*self._prompt, *answer]], device=self._device)
        scores = self._processors(ids, logits.to(self._device, torch.float32, copy=True))
        if self._sample:
            # Gumbel noise turns sampling into an argmax, so that two close distributions with the
            # same random numbers mostly sample the same token (Gumbel-max; arXiv 1611.00712).
            generator = torch.Generator().manual_seed(derive_seed(self._seed, len(answer)))
            uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
            noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1.0 - 1e-16)))
            scores = scores.double() + noise.to(scores.device)
        return int(scores.argmax(-1))


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from ``parts``, equal on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
