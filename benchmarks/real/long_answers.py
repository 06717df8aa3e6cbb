"""Questions asked again through the chat template, to be answered at length.

The tasks' answers are a few tokens long; here a model explains its answer, so that a classifier
that keeps a state sees many tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.criteria.prompts import Prompt

_ASKED, _ANSWERED = "Question:", "Answer:"
_MORE = "Explain your answer."


def long_prompts(tokenizer: Any, prompts: Sequence[Prompt], tokens: int) -> list[Prompt]:
    """The last question of each few-shot prompt, as one turn of a chat.

    Args:
        tokenizer: of a checkpoint with a chat template.
        prompts: of TriviaQA's form.
        tokens: most of an answer; it ends earlier at the end of the turn.

    Raises:
        ValueError: a prompt without a question in it.
    """
    return [_long(tokenizer, one, tokens) for one in prompts]


def _long(tokenizer: Any, prompt: Prompt, tokens: int) -> Prompt:
    _, asked, question = prompt.text.rpartition(_ASKED)
    question, answered, _ = question.partition(_ANSWERED)
    if not asked or not answered:
        raise ValueError(f"no question in the prompt that ends in {prompt.text[-60:]!r}")
    turn = {"role": "user", "content": f"{question.strip()} {_MORE}"}
    text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    until = [tokenizer.eos_token]
    return Prompt("long", text, {"until": until, "max_gen_toks": tokens, "do_sample": False})
