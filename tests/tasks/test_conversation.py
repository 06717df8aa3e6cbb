"""Our CoQA is version 3.0 of lm-eval's, whatever later versions mean; and one of every turn."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval.tasks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import _load_module_with_cache

from dynamax_lm.harness.plugin import bridge, task_folder
from dynamax_lm.tasks.coqa import conversation

WORDS = st.sampled_from(["yes", "Yes", "no", "the cat", "A cat.", "cat and dog", "", "1998"])


@pytest.fixture(scope="module")
def stock() -> ModuleType:
    bridge.supply_squad_metrics()
    module: ModuleType = _load_module_with_cache(
        Path(lm_eval.tasks.__file__).parent / "coqa" / "utils.py"
    )
    return module


@st.composite
def records(draw: Any) -> dict[str, Any]:
    """Conversations of several turns, with and without other annotators."""
    turns = draw(st.integers(1, 4))
    some = st.lists(WORDS, min_size=turns, max_size=turns)
    found: dict[str, Any] = {
        "story": draw(WORDS),
        "questions": {"input_text": draw(some)},
        "answers": {"input_text": draw(some)},
    }
    others = {str(number): {"input_text": draw(some)} for number in range(draw(st.integers(0, 3)))}
    return found | draw(st.sampled_from([{}, {"additional_answers": others}]))


@given(record=records(), response=st.one_of(WORDS, st.just(" the cat\nQ: and?")))
def test_prompts_answers_and_scores_are_those_of_version_3(
    stock: ModuleType, record: dict[str, Any], response: str
) -> None:
    assert conversation.prompt(record) == stock.doc_to_text(record)
    assert conversation.gold_answers(record) == stock.doc_to_target(record)
    found = conversation.scores(record, [response])
    assert found == pytest.approx(stock.process_results(record, [response]))


def cut(record: dict[str, Any], turns: int) -> dict[str, Any]:
    """The conversation as it was after some turns."""
    found: dict[str, Any] = {"story": record["story"]}
    for name in ("questions", "answers"):
        found[name] = {"input_text": record[name]["input_text"][:turns]}
    if others := record.get("additional_answers"):
        found["additional_answers"] = {
            name: {"input_text": one["input_text"][:turns]} for name, one in others.items()
        }
    return found


@given(record=records(), response=WORDS)
def test_a_turn_is_the_last_one_of_the_conversation_until_then(
    record: dict[str, Any], response: str
) -> None:
    for turn in range(len(record["questions"]["input_text"])):
        document, alone = {**record, "turn": turn}, cut(record, turn + 1)
        assert conversation.prompt(document) == conversation.prompt(alone)
        assert conversation.gold_answers(document) == conversation.gold_answers(alone)
        assert conversation.scores(document, [response]) == conversation.scores(alone, [response])


def test_every_turn_of_the_sample_is_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    bridge.connect("lm_eval.tasks")
    names = ["dynamax_coqa_sample", "dynamax_coqa_turns_sample"]
    manager = TaskManager(include_path=[task_folder.TASKS], include_defaults=False)
    whole, divided = (manager.load([name])["tasks"][name] for name in names)
    expected = [
        cut(record, turn + 1)
        for record in whole.eval_docs
        for turn in range(len(record["questions"]["input_text"]))
    ]
    assert len(divided.eval_docs) == len(expected) > 3 * len(whole.eval_docs)
    for document, alone in zip(divided.eval_docs, expected, strict=True):
        assert divided.doc_to_text(document) == whole.doc_to_text(alone)
        assert divided.doc_to_target(document) == whole.doc_to_target(alone)
