"""What a researcher does with a checkpoint: the columns of the matrix of ``docs/models.md``.

Each function does it with the package's own commands on a random checkpoint, and holds the outcome
against a separate run or another way to the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from dynamax_lm import load
from dynamax_lm.api import ExitModel
from dynamax_lm.certify.cli import main as certify
from dynamax_lm.common.errors import SettingError
from dynamax_lm.headroom.__main__ import main as headroom
from dynamax_lm.heads.train.__main__ import main as train
from dynamax_lm.report.__main__ import main as report
from dynamax_lm.sweep.__main__ import main as sweep
from tests.checkpoints import BYTES, byte_tokenizer
from tests.decoders.tiny_families import tiny_model
from tests.quick import results_in

TOYS = str(Path(__file__).parents[1] / "harness" / "toys")
TASKS = ("toy_gen", "toy_mc")
EXITS, TOKENS, LIMIT = (1, 2, 3), 4, 3
THRESHOLDS = (0.02, 0.3)
_LETTERS = "abcdefghij"
_PROMPTS = ("Q: 1 plus 2\nA:", "x", "the quick brown fox")
_ON_TOYS = ("--include_path", TOYS, "--gen_kwargs", f"max_gen_toks={TOKENS}")


@dataclass
class Bench:
    """A checkpoint of a family, and what features have made of it.

    Attributes:
        checkpoint: its folder.
        work: a folder for outputs.
        made: by name, the folders of features that others build on.
    """

    checkpoint: Path
    work: Path
    made: dict[str, Path] = field(default_factory=dict)
    _model: ExitModel | None = None

    @classmethod
    def of(cls, family: str, folder: Path) -> Bench:
        """A random checkpoint of ``family``, saved in ``folder``."""
        tiny = tiny_model(family, vocab_size=BYTES, eos_token_id=2)
        tiny.save_pretrained(folder / "checkpoint")
        byte_tokenizer().save_pretrained(folder / "checkpoint")
        return cls(folder / "checkpoint", folder)

    def model(self, **settings: Any) -> ExitModel:
        """Loaded once, without heads, under ``settings`` and the exits of all features."""
        if self._model is None:
            self._model = load(str(self.checkpoint), "dynamax", dtype="float32", device="cpu")
        exits = {} if settings.get("mode") == "full" else {"exit_layers": list(EXITS)}
        plain = {"mode": "exit", "threshold": 0.9, "prompt_exit": None}
        self._model.change(**plain | exits | settings)
        return self._model

    def words(self, command: str, args: str = "") -> list[str]:
        """The arguments that all commands take, with an output folder of the command's own."""
        given = f"pretrained={self.checkpoint},dtype=float32{args}"
        output = self.made[command] = self.work / command
        return [
            *("--model", "dynamax", "--model_args", given),
            *("--device", "cpu", "--output_path", str(output)),
        ]

    def heads(self) -> Path:
        """Trained linear heads at all exits, made once."""
        if "heads" not in self.made:
            data = _write(self.work / "texts.jsonl", [{"text": _text(n)} for n in range(24)])
            sizes = {"max_steps": 3, "batch_size": 2, "window": 16, "calibration_tokens": 100}
            options = [word for name, one in sizes.items() for word in (f"--{name}", str(one))]
            layers = ("--exit_layers", "+".join(map(str, EXITS)), "--head", "linear")
            train([*self.words("heads"), "--data", str(data), *options, *layers])
        return self.made["heads"]

    def sweep(self) -> Path:
        """The folder of a sweep over two thresholds, made once."""
        if "sweep" not in self.made:
            args = f",exit_layers={'+'.join(map(str, EXITS))},trace_dir={self.work / 'traces'}"
            grid = ("--thresholds", ",".join(map(str, THRESHOLDS)), "--limit", str(LIMIT))
            sweep([*self.words("sweep", args), *_ON_TOYS, "--tasks", ",".join(TASKS), *grid])
        return self.made["sweep"]

    def evaluate(self, model: ExitModel) -> dict[str, Any]:
        """``lm_eval`` with the options of the sweep."""
        found = simple_evaluate(
            model=model.lm,
            tasks=list(TASKS),
            task_manager=TaskManager(include_path=TOYS, include_defaults=False),
            limit=LIMIT,
            bootstrap_iters=0,
            gen_kwargs={"max_gen_toks": TOKENS},
        )
        return dict(found["results"])


def heads_exit_by_their_confidence(bench: Bench) -> None:
    """Trained heads load, decide, and are billed; scoring repeats generation."""
    folder = bench.heads()
    model = load(
        *(str(bench.checkpoint), "dynamax"), heads=str(folder), dtype="float32", device="cpu"
    )
    assert model.settings.measure == "head"
    confidence = model.probe(_PROMPTS[0]).confidence
    model.change(threshold=float(confidence[:, 0].mean()))
    answer = model.generate(_PROMPTS[0], max_gen_toks=TOKENS)
    assert answer.flops.checks > 0
    if answer.text.isascii() and answer.text:  # its bytes are its tokens
        scored = model.score(_PROMPTS[0], answer.text)
        assert scored.trace.layers_used == answer.layers_used[: len(scored.trace.layers_used)]


def certificates_are_read_back(bench: Bench) -> None:
    """A threshold certified on one task's records is what ``threshold=certified`` then uses."""
    records = [
        {"question": f"{n}+{n % 7}", "answer": str(n), "choices": [str(n), "no"], "gold": 0}
        for n in range(300)  # no fewer are taken
    ]
    data = _write(bench.work / "sums.jsonl", records)
    words = bench.words("certificate", f",heads={bench.heads()}")
    task = ("--tasks", "toy_mc", "--include_path", TOYS, "--data", str(data))
    options = ("--batch_size", "64", "--thresholds", "1,0")
    certificate = certify([*words, *task, *options, "--risk", "0.5"])
    assert certificate.documents == len(records)
    model = load(
        *(str(bench.checkpoint), "dynamax"),
        **{"heads": str(bench.heads()), "threshold": "certified", "device": "cpu"},
    )
    assert model.settings.threshold == certificate.threshold


def sweep_points_equal_separate_runs(bench: Bench) -> None:
    """Every metric of every point."""
    depths = set()
    for threshold in THRESHOLDS:
        (folder,) = bench.sweep().glob(f"*/threshold={threshold}")
        ours = results_in(folder)["results"]
        alone = bench.evaluate(bench.model(threshold=threshold))
        for task in TASKS:
            numbers = {name: one for name, one in alone[task].items() if type(one) is float}
            assert {name: ours[task][name] for name in numbers} == pytest.approx(numbers, abs=1e-4)
            depths.add(numbers[next(name for name in numbers if name.startswith("layers_used"))])
    assert len(depths) > 1, "the thresholds must differ for this to mean anything"


def headroom_is_what_fixed_exits_show(bench: Bench) -> None:
    """Agreement after each layer, of a choice among texts."""
    limits = ("--tasks", "toy_mc", "--limit", str(LIMIT))
    headroom([*bench.words("headroom"), *_ON_TOYS, *limits])
    (file,) = bench.made["headroom"].glob("*/headroom.json")
    (group, *_) = json.loads(file.read_text())["groups"]
    for layer in EXITS:
        found = bench.evaluate(bench.model(exit_layers=[layer], threshold=0.0))["toy_mc"]
        (ours,) = (one for one in group["layers"] if one["layer"] == layer)
        assert ours["agreement"]["value"] == pytest.approx(found["agreement,none"], abs=1e-9)


def lossless_answers_are_full_depths(bench: Bench) -> None:
    """And drafts were made on the way."""
    options: dict[str, Any] = {"max_gen_toks": 3 * TOKENS, "until": ["zz"]}
    full = bench.model(mode="full").generate(_PROMPTS, **options)
    lossless = bench.model(mode="lossless", exit_layers=[2], threshold=0.02)
    drafted = lossless.generate(_PROMPTS, **options)
    assert [one.text for one in drafted] == [one.text for one in full]
    assert any(
        one.flops.spent != other.flops.spent for one, other in zip(drafted, full, strict=True)
    )


def prompt_exits_save_of_the_prompt(bench: Bench) -> None:
    """A prompt that exits costs less, by what the ledger says; its answer is as deep as asked."""
    model = bench.model(prompt_exit=2, threshold=0.0)
    answer = model.generate(_PROMPTS[0], max_gen_toks=TOKENS)
    full = bench.model(threshold=0.0).generate(_PROMPTS[0], max_gen_toks=TOKENS)
    assert answer.flops.prompt < full.flops.prompt
    assert answer.flops.prompt + answer.flops.prompt_saved == full.flops.prompt
    assert set(answer.layers_used) == {EXITS[0]}


def reports_hold_against_their_traces(bench: Bench) -> None:
    """A page of the sweep's points, whose numbers follow from their traces."""
    found, page = str(bench.sweep()), bench.work / "page"
    assert report([found, "--verify"]) == 0
    assert report([found, "--output_path", str(page)]) == 0
    rows = json.loads((page / "leaderboard.json").read_text())["rows"]
    assert len(rows) == len(TASKS) * (len(THRESHOLDS) + 1), "full depth beside them"


def steps_can_be_recorded(bench: Bench) -> None:
    """Whether decoding steps are such as a GPU records; ``test_recorded_steps`` replays them."""
    if not bench.model().lm.stack.recordable:
        raise SettingError("some layer's step is not of static shape")


def outcome(feature: str, bench: Bench) -> str:
    """``yes``, or ``no`` where the package refuses; a wrong outcome raises."""
    try:
        FEATURES[feature](bench)
    except SettingError:
        return "no"
    return "yes"


def matrix(cells: Mapping[str, Mapping[str, str]]) -> str:
    """The table of the documentation, from the outcomes of each family."""
    lines = [f"| decoder | {' | '.join(FEATURES)} |", "| --- " * (len(FEATURES) + 1) + "|"]
    for family, found in cells.items():
        lines.append(f"| `{family}` | {' | '.join(found[name] for name in FEATURES)} |")
    return "\n".join(lines)


FEATURES: Mapping[str, Callable[[Bench], None]] = {
    "heads": heads_exit_by_their_confidence,
    "certificates": certificates_are_read_back,
    "sweep": sweep_points_equal_separate_runs,
    "headroom": headroom_is_what_fixed_exits_show,
    "lossless": lossless_answers_are_full_depths,
    "prompt exits": prompt_exits_save_of_the_prompt,
    "report": reports_hold_against_their_traces,
    "CUDA graphs": steps_can_be_recorded,
}
"""By column of the matrix."""


def _text(number: int) -> str:
    return " ".join(_LETTERS[(number + 3 * place) % 10] * 3 for place in range(12))


def _write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
