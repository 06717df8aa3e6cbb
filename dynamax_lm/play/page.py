"""Answers as the report's token page: one HTML file without a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dynamax_lm.api import ExitModel
from dynamax_lm.common.tracefile import lines_of
from dynamax_lm.harness.results_config import early_exit_block
from dynamax_lm.play.session import Played
from dynamax_lm.report.page import tokens_page
from dynamax_lm.report.rows import checkpoint_of, setting_of
from dynamax_lm.report.runs import Run
from dynamax_lm.report.tokens import TokenPage, answer_of


def answers_page(played: Sequence[Played], model: ExitModel) -> str:
    """The page of all answers of a session, one document for each prompt."""
    lm = model.lm
    decode = partial(lm.tok_decode, skip_special_tokens=False)
    block = early_exit_block(lm)
    config = {"model": lm.ARCHITECTURE.model, "model_dtype": str(lm.model.dtype)}
    run = Run(Path(), {"results": {}, "config": config | {"early_exit": block}}, {}, None)
    documents: list[dict[str, Any]] = [
        {
            "id": number,
            "prompt": one.prompt,
            "omitted": 0,
            "gold": "",
            "values": {},
            "answers": [
                answer_of("answer", list(lines_of([one.answer.trace], "prompts", number)), decode)
            ],
        }
        for number, one in enumerate(played)
    ]
    return tokens_page(
        TokenPage(
            task="Prompts",
            checkpoint=checkpoint_of(run),
            setting=setting_of(run),
            layers=model.n_layers,
            depths=[*model.settings.exit_layers, model.n_layers],
            texts=True,
            scored=False,
            documents=documents,
            lossless=model.settings.mode == "lossless",
        )
    )
