"""The kinds of operators in a profile, and a profile of a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

import dynamax_lm
from benchmarks.sample_profile import kind_of, measure
from dynamax_lm.models.lm import DynamaxMistral


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("mkldnn::_linear_pointwise", "products"),
        ("aten::addmm", "products"),
        ("aten::bmm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::silu", "all else"),
    ],
)
def test_operators_have_a_kind(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind


def test_a_profile_has_all_operators_and_leaves_the_model_as_it_was() -> None:
    tasks = str(Path(dynamax_lm.__file__).parent / "tasks")
    lm = DynamaxMistral(pretrained="tiny", batch_size=2, device="cpu", mode="full")
    once, again = (measure(lm, "dynamax_triviaqa_sample", tasks, 2) for _ in range(2))
    for found in (once, again):
        assert sum(found["shares"].values()) == pytest.approx(1, abs=0.01)
        assert set(found["shares"]) == {"products", "attention", "all else"}
        assert found["processor_seconds"] > 0
    assert once["operators"] == again["operators"] > 1000
    assert "generate_until" not in vars(lm)
