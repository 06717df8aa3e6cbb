import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamax_lm.common.errors import SettingError
from dynamax_lm.heads.train.labels import agreement, read_label


@given(seed=st.integers(0, 500), k=st.integers(1, 9), n=st.integers(1, 8))
def test_labels_by_brute_force(seed, k, n):
    torch.manual_seed(seed)
    exit_logits, full_logits = torch.randn(n, 7), torch.randn(n, 7)
    labels = agreement(exit_logits, full_logits, k).tolist()
    for token in range(n):
        emitted = max(range(7), key=lambda v: exit_logits[token, v])
        better = sum(bool(full_logits[token, v] > full_logits[token, emitted]) for v in range(7))
        assert labels[token] == (better < k)


@pytest.mark.parametrize(("name", "k"), [("top1", 1), ("top5", 5), ("top_10", 10)])
def test_label_names(name, k):
    assert read_label(name) == k


@pytest.mark.parametrize("name", ["top0", "top", "best", "top-1.5", ""])
def test_other_labels_are_refused(name):
    with pytest.raises(SettingError, match="--label"):
        read_label(name)
