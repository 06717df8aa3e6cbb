"""Answers of the model itself as training text: made once, and kept for the same settings."""

import json

import pytest

from dynamax_lm.heads.train import command as module
from tests.heads.train.training_runs import options


def test_the_model_answers_its_prompts_once(checkpoints, tmp_path, monkeypatch):
    data = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"question {n}:", "answer": "x"}) for n in range(30)]
    data.write_text("\n".join(lines))
    extra = ("--answers", "model", "--max_gen_toks", 5, "--until", r"\n", "--window", 40)
    arguments = options(checkpoints, str(data), tmp_path / "out", *extra, "--max_steps", 2)
    module.train(arguments)
    rows = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(rows) == 30
    assert len({json.loads(row)["key"] for row in rows}) == 30
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "answers.jsonl").write_text("\n".join([*rows[:-1], rows[-1][:9]]))
    monkeypatch.setattr(
        "dynamax_lm.heads.train.self_generated._answer", lambda b, some, *_: ["y"] * len(some)
    )
    again = [str(tmp_path / "again") if one == str(tmp_path / "out") else one for one in arguments]
    module.train(again)
    kept = (tmp_path / "again" / "answers.jsonl").read_text().splitlines()
    assert kept[:-1] == rows[:-1]
    assert json.loads(kept[-1])["answer"] == "y"


@pytest.mark.parametrize(
    ("more", "kept"),
    [((), 30), (("--max_gen_toks", 6), 0), (("--until", "x"), 0), (("--window", 41), 0)],
)
def test_answers_of_other_settings_are_not_kept(checkpoints, tmp_path, monkeypatch, more, kept):
    data = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"question {n}:", "answer": "x"}) for n in range(30)]
    data.write_text("\n".join(lines))
    extra = ("--answers", "model", "--max_gen_toks", 5, "--window", 40, "--max_steps", 2)
    arguments = options(checkpoints, str(data), tmp_path / "out", *extra)
    module.train(arguments)
    for file in (tmp_path / "out").iterdir():
        if file.name != "answers.jsonl":
            file.unlink()
    answered = []
    original = module.answered.__globals__["_answer"]

    def counted(backbone, some, tokens, window):
        answered.extend(some if tokens > 1 else ())  # not a first pass of one token
        return original(backbone, some, tokens, window)

    monkeypatch.setattr("dynamax_lm.heads.train.self_generated._answer", counted)
    module.train([*arguments, *map(str, more)])
    assert len(answered) == 30 - kept
