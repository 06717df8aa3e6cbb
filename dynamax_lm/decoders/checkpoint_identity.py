"""What identifies a loaded checkpoint: its weights, configurations, tokenizer and adapters.

A name identifies nothing: the files of a folder change, and so does a branch of a hub repository.
The digests here are of the loaded model, so that they cover adapters, quantisation and models that
the caller made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor, nn

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.identity import fingerprint_of

_AT_ONCE = 1 << 26
"""Bytes of a tensor that are read, and on a GPU copied, at once."""

_NOT_CONTENT = frozenset(
    {
        *("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype"),
        *("torch_dtype", "_commit_hash", "_from_model_config", "id2label", "label2id"),
        *("base_model_name_or_path", "auto_mapping", "inference_mode", "peft_version"),
    }
)
"""Entries of configurations that name a thing and change no number, or are recorded elsewhere."""

_TOKENIZER_SWITCHES = (
    *("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", "model_max_length"),
    *("split_special_tokens", "chat_template", "special_tokens_map", "legacy"),
)


class CheckpointIdentity(NamedTuple):
    """Digests of everything of a checkpoint that can change a number, 16 digits each.

    Attributes:
        weights: of every byte of every parameter and saved buffer, with names, shapes and number
            formats. XXH3 of 128 bits: it detects any accidental change, and is no signature.
        config: of the configuration's values that are not at their default.
        generation: of the generation configuration's, likewise.
        tokenizer: of the tokenizer's vocabulary, merges, normalisation, special tokens and chat
            template; empty without a tokenizer.
        adapters: of the configurations of PEFT adapters, whose tensors are among the weights;
            empty without adapters.
    """

    weights: str
    config: str
    generation: str
    tokenizer: str
    adapters: str

    @property
    def parts(self) -> dict[str, str]:
        """All digests but that of the weights, by name; without empty ones."""
        return {
            name: value for name, value in self._asdict().items() if value and name != "weights"
        }

    @property
    def digest(self) -> str:
        """One digest of all."""
        return fingerprint_of(self._asdict())


def identity_of(model: Any, tokenizer: Any = None) -> CheckpointIdentity:
    """The identity of a loaded model, and a check of its numbers.

    Args:
        model: of transformers, or PEFT's wrapper of one.
        tokenizer: of transformers, or ``None``.

    Raises:
        SettingError: a weight that is not finite, or whose bytes cannot be read.
    """
    adapters = getattr(model, "peft_config", None)
    generation = getattr(model, "generation_config", None)
    return CheckpointIdentity(
        weights=digest_weights(model),
        config=fingerprint_of(_content(model.config.to_diff_dict())),
        generation=""
        if generation is None
        else fingerprint_of(_content(generation.to_diff_dict())),
        tokenizer="" if tokenizer is None else digest_tokenizer(tokenizer),
        adapters=_digest_adapters(model, adapters) if isinstance(adapters, Mapping) else "",
    )


def digest_weights(model: nn.Module) -> str:
    """The digest of every byte of a model's parameters and saved buffers.

    Raises:
        SettingError: a weight that is not finite, is offloaded, or whose bytes cannot be read.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in _saved_tensors(model):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.is_meta:
            raise SettingError(
                f"the checkpoint's {name} is offloaded: it does not fit into the memory of the "
                f"devices that were found, and layers that run in pieces need it there; leave out "
                f"parallelize where there is no GPU, or give more memory"
            )
        for piece in _pieces(name, tensor):
            content: Any = piece.view(torch.uint8).cpu().numpy()
            digest.update(content)
    return digest.hexdigest()[:16]


def digest_tokenizer(tokenizer: Any) -> str:
    """The digest of a tokenizer's contents, whatever files they came from."""
    known: dict[str, Any] = {
        name: str(getattr(tokenizer, name, None)) for name in _TOKENIZER_SWITCHES
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        core = json.loads(backend.to_str())
        core.pop("truncation", None)  # these two are set by calls
        core.pop("padding", None)
        known["core"] = core
    else:
        known["class"] = type(tokenizer).__name__
        known["vocabulary"] = sorted(tokenizer.get_vocab().items())
        model = getattr(tokenizer, "sp_model", None)
        if model is not None:
            known["pieces"] = model.serialized_model_proto().hex()
    return fingerprint_of(known)


def _digest_adapters(model: Any, adapters: Mapping[str, Any]) -> str:
    active = getattr(model, "active_adapters", None)
    configs = {name: _content(one.to_dict()) for name, one in adapters.items()}
    return fingerprint_of({"adapters": configs, "active": active() if callable(active) else active})


def _content(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's values without names; sets in order, so that processes agree."""
    return {
        str(key): _plain(value) for key, value in config.items() if str(key) not in _NOT_CONTENT
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _content(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _saved_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and buffers such as the weights of some quantised layers."""
    for name, parameter in model.named_parameters():
        yield from _plain_tensors(name, parameter)
    for module_name, module in model.named_modules():
        passing = module._non_persistent_buffers_set  # such as rotary angles, computed anew
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in passing:
                yield from _plain_tensors(f"{module_name}.{name}", buffer)


def _plain_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor itself, or those inside a quantised one."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield name, tensor.detach()
        return
    inner, context = flatten()
    for part in inner:
        yield from _plain_tensors(f"{name}.{part} {context}", getattr(tensor, part))


def _pieces(name: str, tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's numbers in pieces, each checked.

    Raises:
        SettingError: a number that is not finite, or a tensor that cannot be read in bytes.
    """
    try:
        flat = tensor.reshape(-1)
        pieces = flat.split(max(1, _AT_ONCE // flat.element_size()))
        for piece in pieces:
            if piece.numel():
                piece = piece.contiguous()
                piece.view(torch.uint8)
                _check_finite(name, piece)
                yield piece
    except (RuntimeError, NotImplementedError) as error:
        raise SettingError(
            f"the checkpoint's {name} is a {type(tensor).__name__} of {tensor.dtype}, whose bytes "
            f"cannot be read, so that its results could not be told from others'; use a checkpoint "
            f"of plain or bitsandbytes weights"
        ) from error


def _check_finite(name: str, numbers: Tensor) -> None:
    if numbers.dtype not in {torch.float64, torch.float32, torch.float16, torch.bfloat16}:
        return
    least, most = (float(one) for one in torch.aminmax(numbers))
    if not (least > float("-inf") and most < float("inf")):  # also where they are NaN
        raise SettingError(
            f"the checkpoint's {name} holds numbers that are NaN or infinite; its answers would "
            f"mean nothing: download or save it again"
        )
