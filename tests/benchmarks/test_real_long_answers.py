"""Questions asked again through the chat template."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.criteria.prompts import Prompt
from benchmarks.real.long_answers import long_prompts


class Chat:
    """A tokenizer with a chat template."""

    eos_token = "<end>"

    def apply_chat_template(self, turns: list[dict[str, str]], **options: Any) -> str:
        assert options == {"tokenize": False, "add_generation_prompt": True}
        (turn,) = turns
        return f"<{turn['role']}>{turn['content']}<end>"


def test_only_the_last_question_is_asked() -> None:
    text = "Question: Who?\nAnswer: Her.\n\nQuestion: Where was it?\nAnswer:"
    (long,) = long_prompts(Chat(), [Prompt("triviaqa", text, {"until": ["\n"]})], 9)
    assert long.text == "<user>Where was it? Explain your answer.<end>"
    assert long.gen_kwargs == {"until": ["<end>"], "max_gen_toks": 9, "do_sample": False}


def test_a_prompt_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no question in the prompt that ends in .Tell me\.."):
        long_prompts(Chat(), [Prompt("coqa", "Tell me.", {})], 9)
