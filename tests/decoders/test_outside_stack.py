"""A decoder with layers from outside needs a vocabulary projection."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, GPT2Model

from dynamax_lm.common.errors import SettingError
from dynamax_lm.decoders.adapter import LayerPlan
from dynamax_lm.decoders.outside_stack import OutsideStack


def test_a_model_without_a_vocabulary_projection_is_refused_by_name() -> None:
    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11)).eval()
    with pytest.raises(SettingError, match=r"^GPT2Model has no vocabulary projection: ") as caught:
        OutsideStack(model, LayerPlan())
    assert "\n" not in str(caught.value)
