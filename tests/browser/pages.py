"""Pages for the browser: a large report, a report of hostile text, and a session's page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models

from dynamax_lm.play.command import main as generate
from dynamax_lm.report.__main__ import main as report
from tests.browser.hostile import PAYLOADS
from tests.checkpoints import save_checkpoint
from tests.report.synthetic import GENERATION, SCORING, Made, Plan, write_plain, write_run

DOCUMENTS = 48
WORDS = ["the", "answer", "is", "a", "quiet", "harbour", "beside", "seven", "old", "mills"]
NAME = "organisation-with-a-long-name/checkpoint-of-several-billion-parameters-instruct-v0.3"
TASK = "dynamax_a_task_whose_name_has_many_words_and_no_space_in_it"
PLANS = (
    Plan(threshold=0.5),
    Plan(threshold=0.7, seed=1),
    Plan(settings={"confidence": "margin", "arguments": {"max_length": "4096"}}, seed=2),
    Plan(settings={"confidence": "oracle"}, seed=3),
    Plan(exits=(5,), threshold=0.0, seed=4),
    Plan(settings={"mode": "full"}, exits=(), seed=5),
    Plan(settings={"heads": "heads/with-a-long-name-of-their-own", "confidence": "top_prob"}),
)


class Pages(NamedTuple):
    """Where the pages are.

    Attributes:
        report: a report of seven settings of two tasks, with a plain run.
        hostile: a report whose every text is hostile.
        session: the page of ``python -m dynamax_lm.generate --html``.
    """

    report: Path
    hostile: Path
    session: Path

    @property
    def every(self) -> dict[str, Path]:
        """One page of each kind, by its name."""
        return {
            "leaderboard": self.report / "index.html",
            "tokens": token_pages(self.report)[-1],
            "compared": next((self.report / "compare").glob(f"*{TASK}*")),
            "session": self.session,
        }


def token_pages(folder: Path) -> list[Path]:
    """The token pages of a report, largest first."""
    return sorted((folder / "tokens").iterdir(), key=lambda one: -one.stat().st_size)


def make_pages(folder: Path) -> Pages:
    """Writes all of them below ``folder``."""
    for number, plan in enumerate(PLANS):
        plan.tasks, plan.documents = {TASK: GENERATION, "mc": SCORING}, DOCUMENTS
        plan.settings = {"pretrained": NAME, **plan.settings}
        plan.stamp = f"2026-01-01T00-00-0{number}.000000"
        made = write_run(folder / "in" / str(number), plan)
        change_samples(made, TASK, lambda line, n=number: _worded(line, n))
    write_plain(folder / "in" / "plain", Plan(tasks={TASK: GENERATION}, documents=DOCUMENTS))
    report([str(folder / "in"), "--output_path", str(folder / "report")])
    return Pages(folder / "report", _hostile(folder / "hostile"), _session(folder / "session"))


def change_samples(made: Made, task: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Applies ``change`` to every line of a task's samples."""
    path = made.samples[task]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def _worded(line: dict[str, Any], number: int) -> None:
    """An answer of words, some of which differ between runs; a prompt of some length."""
    at = line["doc_id"]
    words = [word for place, word in enumerate(WORDS) if (place + at) % (number + 3)]
    line["resps"], line["filtered_resps"] = [[" ".join(words)]], [" ".join(words)]
    line["arguments"]["gen_args_0"]["arg_0"] = f"Question {at}: " + "where is it? " * 130


def _hostile(folder: Path) -> Path:
    """A report in which names, settings, prompts, answers, tokens and notes are hostile."""
    vocabulary = {text: number for number, text in enumerate((PAYLOADS * 3)[:64])}
    vocabulary |= {f"{text} {n}": n for n, text in enumerate((PAYLOADS * 3)[:64])}
    folder.mkdir(parents=True)
    Tokenizer(models.WordLevel(vocabulary)).save(str(folder / "tokenizer.json"))
    for number in range(2):
        name, setting, state = PAYLOADS[:3] if number else PAYLOADS[5:8]
        plan = Plan(
            seed=number,
            documents=len(PAYLOADS),
            tasks={"gen": GENERATION, "mc": SCORING},
            stamp=f"2026-01-01T00-00-0{number}.000000",
            settings={"pretrained": PAYLOADS[1], "arguments": {name: setting, "dtype": state}},
        )
        made = write_run(folder / "in" / str(number), plan)
        for task in made.samples:
            change_samples(made, task, lambda line, n=number: _spoiled(line, n))
    (folder / "in" / f"results_{PAYLOADS[7].replace('/', '')}.json").write_text(PAYLOADS[0])
    out = folder / "report"
    arguments = ["--output_path", str(out), "--tokenizer", str(folder)]
    report([str(folder / "in"), *arguments])
    return out


def _spoiled(line: dict[str, Any], number: int) -> None:
    text = PAYLOADS[line["doc_id"] % len(PAYLOADS)]
    other = PAYLOADS[(line["doc_id"] + number) % len(PAYLOADS)]
    line["target"] = text
    line["doc"] = {text: text}
    for request in line["arguments"].values():
        request["arg_0"] = text
        if isinstance(request["arg_1"], str):
            request["arg_1"] = other
    if isinstance(line["resps"][0][0], str):
        line["resps"], line["filtered_resps"] = [[other]], [other]


def _session(folder: Path) -> Path:
    """Two prompts, one of them hostile, answered by a random checkpoint."""
    checkpoint = save_checkpoint(folder / "checkpoint", "mistral")
    page = folder / "session.html"
    settings = "threshold=0.02,exit_layers=1+2+3,dtype=float32"
    generate(
        [
            *("--model", "dynamax-mistral", "--device", "cpu"),
            *("--model_args", f"pretrained={checkpoint},{settings}"),
            *("--gen_kwargs", "max_gen_toks=16", "--html", str(page)),
            *("--prompt", "a quiet harbour", "--prompt", PAYLOADS[1]),
        ]
    )
    return page
