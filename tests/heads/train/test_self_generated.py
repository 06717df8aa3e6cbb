"""Answers of the frozen model are those of transformers' own greedy search."""

from pathlib import Path

import pytest
import torch

from dynamax_lm.heads.train.backbone import Backbone, load_backbone
from dynamax_lm.heads.train.documents import Document
from dynamax_lm.heads.train.self_generated import _answer, answered
from dynamax_lm.heads.train.sources import LocalSource
from tests.checkpoints import save_checkpoint

PROMPTS = ("one", "a longer question:", "q: who?", "the old river ran under seven bridges and home")
MODELS = {"dynamax-mistral": "mistral", "dynamax-mamba": "mamba2"}
LONGEST = 12


@pytest.fixture(scope="module", params=MODELS)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = save_checkpoint(tmp_path_factory.mktemp(request.param), MODELS[request.param])
    return load_backbone(request.param, f"pretrained={folder},dtype=float32", "cpu")


def greedy(backbone: Backbone, prompt: str) -> list[int]:
    """Transformers' answer to one prompt, that no end cuts."""
    ids = torch.tensor([backbone.encode(prompt)])
    made = backbone.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=LONGEST,
        min_new_tokens=LONGEST,
        do_sample=False,
        pad_token_id=0,
    )
    return list(made[0, ids.shape[1] :].tolist())


def answers(backbone: Backbone, until: tuple[str, ...] = ()) -> list[str]:
    documents = [Document(one, "", until=until) for one in PROMPTS]
    return _answer(backbone, documents, LONGEST, 96)


def test_answers_are_transformers_own(backbone: Backbone) -> None:
    own = [backbone.tokenizer.decode(greedy(backbone, one)) for one in PROMPTS]
    assert answers(backbone) == own
    assert len(set(own)) > 1


def test_an_answer_ends_with_the_token_that_completes_a_stop(backbone: Backbone) -> None:
    tokens = greedy(backbone, PROMPTS[0])
    stop = backbone.tokenizer.decode(tokens[3:5])
    texts = [backbone.tokenizer.decode(tokens[:count]) for count in range(1, LONGEST + 1)]
    assert answers(backbone, (stop,))[0] == next(one for one in texts if stop in one)


@pytest.mark.parametrize("asked", [(), ("z",)])
def test_each_record_ends_by_its_own_stops_if_none_are_asked_for(
    backbone: Backbone, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    tokens = greedy(backbone, PROMPTS[0])
    stops = [(), (backbone.tokenizer.decode(tokens[3:5]),), ("e", "zz")]
    documents = [Document(PROMPTS[n % 2], "x", str(n), own) for n, own in enumerate(stops)]
    made = answered(
        *(LocalSource(tuple(documents), 0), backbone, tmp_path),
        **{"prompts": 9, "max_gen_toks": LONGEST, "until": asked, "window": 96},
        **{"batch_size": 2, "seed": 0},
    )
    expected = {
        one.group: _answer(backbone, [one._replace(until=asked or one.until)], LONGEST, 96)[0]
        for one in documents
    }
    assert {one.group: one.answer for one in made.items} == expected


def test_an_end_of_sequence_ends_an_answer_and_is_no_part_of_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = greedy(backbone, PROMPTS[0])
    end = tokens[4]
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", [2, end])
    assert answers(backbone)[0] == backbone.tokenizer.decode(tokens[: tokens.index(end)])


def test_a_checkpoints_own_options_are_honoured(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answers(backbone)
    monkeypatch.setattr(backbone.model.generation_config, "repetition_penalty", 5.0)
    own = [backbone.tokenizer.decode(greedy(backbone, one)) for one in PROMPTS]
    assert answers(backbone) == own
    assert own != plain
