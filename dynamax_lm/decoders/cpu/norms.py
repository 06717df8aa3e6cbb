"""RMS norms in one call, in place of transformers' seven.

In float32 the result is bit-identical; in bfloat16 it is rounded once, not twice.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mamba2.modeling_mamba2 import Mamba2RMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

from dynamax_lm.decoders.hooks import is_hooked

_KNOWN = frozenset({LlamaRMSNorm, Mamba2RMSNorm, MistralRMSNorm})


def normalise(norm: nn.Module, hidden: Tensor) -> Tensor:
    """(..., D) ``norm`` of ``hidden`` (..., D), up to rounding."""
    if type(norm) not in _KNOWN or hidden.dtype != norm.weight.dtype or is_hooked(norm):
        return normalise_trusted(norm, hidden)
    epsilon = float(norm.variance_epsilon)  # type: ignore[arg-type]
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, epsilon)  # type: ignore[arg-type]


def normalise_trusted(norm: nn.Module, hidden: Tensor) -> Tensor:
    """``norm(hidden)``, as transformers calls it."""
    normed: Tensor = norm(hidden)
    return normed
