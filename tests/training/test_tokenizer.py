"""The tokenizer loses nothing and behaves like Mistral's."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.tiny.tokenizer import VOCAB_SIZE, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Trained on this repository's own text, saved and loaded."""
    folder = tmp_path_factory.mktemp("tokenizer")
    root = Path(__file__).parents[2]
    texts = [path.read_text(encoding="utf-8") for path in sorted(root.glob("training/**/*.py"))]
    train_tokenizer(texts).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "text",
    [
        "Q: Who?\n\nA: a cat\n\nQ:",
        "naïve café — 東京 🚁\u200d🔥 \x00\t\r\n  end ",
        "  leading, 1989,  don't\n \n\n x",
        "",
        "\ufeff\u2028e\u0301",
    ],
)
def test_round_trips(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_size_and_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) == VOCAB_SIZE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.model_max_length == 2048


def test_digits_stand_alone_and_blank_lines_are_one_token(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert tokenizer.tokenize("1989") == ["1", "9", "8", "9"]
    assert len(tokenizer.tokenize("\n\n")) == 1
