"""States of prompts' own tokens, states in parts, low-rank starts, and the short list."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.criteria import kind_table
from benchmarks.criteria import states as stored
from benchmarks.criteria.collect import collect
from benchmarks.criteria.fit import Recipe
from benchmarks.criteria.kinds import kind_of
from benchmarks.criteria.states import States
from benchmarks.criteria.translators import fit_translators, logit_metric
from benchmarks.real import recipes
from benchmarks.real.gather import _windows
from benchmarks.real.quality import qualities
from benchmarks.real.report import VIEWS, curve_table
from benchmarks.real.vocabulary import ShortList
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.heads import HeadsConfig
from tests.builders import STACKS, VOCAB, random_model, whole_forward
from tests.heads.builders import config_of_four_layers

ROOT = Path(__file__).resolve().parents[2]
EXITS = (1, 2, 3)
ALIKE = 40
START = Recipe(translator_steps=0)


class Collected:
    """A random decoder with states of its answers and of their prompts, in two parts."""

    def __init__(self, folder: Path) -> None:
        self.model = random_model("mistral", 4, seed=3).requires_grad_(False)
        self.stack: Any = STACKS["mistral"](self.model)
        generator = torch.Generator().manual_seed(1)
        before = tuple(torch.randint(2, VOCAB, (ALIKE,), generator=generator).tolist())
        self.before = before
        self.parts = []
        for part in range(2):
            prompts = [
                tuple(torch.randint(2, VOCAB, (3 + number,), generator=generator).tolist())
                for number in range(3)
            ]
            asked = [GenerateRequest((*before, *one), 4, lambda _: False) for one in prompts]
            asked.append(GenerateRequest(prompts[0], 2, lambda _: False))
            self.parts.append(
                collect(
                    self.stack,
                    asked,
                    ["alike"] * 3 + ["alone"],
                    EXITS,
                    folder / str(part),
                    text_of=lambda number, tokens: len(tokens) - 1 if number else 0,
                    batch_size=4,
                    dtype="float32",
                    windows=[before[:5]],
                    prompts_too=True,
                )
            )

    def config(self, rank: int) -> HeadsConfig:
        translator = "low_rank" if rank else "affine"
        return config_of_four_layers(EXITS, translator=translator, translator_rank=rank)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return Collected(tmp_path_factory.mktemp("states"))


@torch.no_grad()
def test_every_kept_token_has_the_states_of_its_whole_sequence(collected: Collected) -> None:
    states = stored.joined(collected.parts)
    assert states.tasks.count("text") == 2 * 5  # of four prompts and a window, a piece each
    for place in range(len(states.token)):
        document = states.document[place]
        first = int(np.flatnonzero(states.document == document)[0])
        prompt = list(states.prompts[document])
        sequence = [*prompt, *states.token[first:place]]
        if states.tasks[document] == "text":  # the text goes on, whatever full depth emits
            answered = document + 1 < len(states.tasks) and states.tasks[document + 1] != "text"
            ended = answered and states.prompts[document + 1][: len(prompt)] == tuple(prompt)
            whole = list(states.prompts[document + 1] if ended else collected.before[:5])
            sequence = whole[: states.position[place] + 1]
        logits, after = whole_forward(collected.model, sequence)
        assert states.position[place] == len(sequence) - 1
        assert states.token[place] == int(logits.argmax())
        for number, layer in enumerate(EXITS):
            hidden = after[layer - 1]
            torch.testing.assert_close(states.at(number, [place]), hidden, atol=1e-4, rtol=1e-3)


def test_parts_and_views_keep_every_token_beside_its_document(collected: Collected) -> None:
    whole = stored.joined(collected.parts)
    texts = whole.texts()
    assert len(texts.token) == int(whole.text.sum())
    assert np.array_equal(texts.token, whole.token[whole.of_text])
    assert texts.tasks == tuple(
        task for task, count in zip(whole.tasks, whole.text, strict=True) if count
    )
    assert [texts.tasks[number] for number in texts.document] == [
        whole.tasks[number] for number in whole.document[whole.of_text]
    ]
    some = whole.at_exits((2,))
    assert some.layers == (2, 4)
    assert torch.equal(some.at(0), whole.at(1))
    assert torch.equal(some.at(1), whole.at(3))


@torch.no_grad()
def _logit_errors(states: States, collected: Collected, rank: int, metric: torch.Tensor) -> Any:
    full = fit_translators(collected.config(0), states, collected.stack.unembed, START)
    low = fit_translators(collected.config(rank), states, collected.stack.unembed, START, metric)
    errors = []
    for number, layer in enumerate(EXITS):
        hidden = states.at(number)
        gap = low.translate(layer, hidden) - full.translate(layer, hidden)
        scale = states.at(len(EXITS)).norm(dim=1, keepdim=True)
        errors.append(float(((gap / scale) @ metric * (gap / scale)).sum()))
    return np.array(errors)


def test_a_higher_rank_is_nearer_to_the_affine_map_and_full_rank_is_it(
    collected: Collected,
) -> None:
    states = stored.joined(collected.parts)
    model = collected.model
    metric = logit_metric(model.base_model.norm.weight, model.lm_head.weight)
    errors = [_logit_errors(states, collected, rank, metric) for rank in (1, 4, 8, 16)]
    for lower, higher in pairwise(errors):
        assert (higher <= lower * (1 + 1e-6)).all()
    assert (errors[-1] < 1e-5 * errors[0]).all()


def test_the_short_list_says_what_the_vocabulary_says_of_its_tokens(collected: Collected) -> None:
    states = stored.joined(collected.parts)
    lm_type = type("Lm", (), {"STACK": STACKS["mistral"], "model": collected.model})
    short = ShortList.of(lm_type(), states)
    hidden = states.at(1)
    torch.testing.assert_close(
        short.unembed(hidden), collected.stack.unembed(hidden)[:, short.ids], atol=1e-4, rtol=1e-4
    )
    assert np.array_equal(short.ids[short.numbered(states).token], states.token)


def test_full_depth_has_no_divergence_from_itself(collected: Collected) -> None:
    states = stored.joined(collected.parts)
    same = states.at_exits((3,))
    same = type(same)(**{**vars(same), "hidden": [same.hidden[1], same.hidden[1]]})
    (found,) = qualities(same, list(range(20)), collected.stack.unembed, None)
    assert found.agreement == 1.0
    assert abs(found.divergence) < 1e-5


def test_windows_end_with_the_tokens_asked_for() -> None:
    texts = ["a" * length for length in (300, 10, 200, 50)]
    windows = _windows(lambda text: list(range(len(text))), texts, 400)
    assert [len(one) for one in windows] == [10, 200, 256]


def published(data: str, page: str = "real-model") -> tuple[str, Any]:
    """A page, and the results of a study that it shows."""
    results = ROOT / "benchmarks" / "real" / "results" / data
    shown = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return shown, json.loads(results.read_text(encoding="utf-8"))


def test_the_page_has_the_numbers_of_its_results() -> None:
    page, results = published("smollm2-affine-317k.json")
    curve = published("smollm2-curve.json")[1]["curve"]
    for line in curve_table(curve).splitlines():
        assert not line.startswith("|") or line in page
    again = {(row["stage"], row["tokens"]): row for row in curve}
    for row in results["curve"]:
        for view in VIEWS:
            for one, other in zip(row[view], again[row["stage"], row["tokens"]][view], strict=True):
                assert one == pytest.approx(other, abs=1e-3)
    for line in results["lines"]:
        if line["target"] == 0.95 and line["rule"] not in {"patience", "entropy"}:
            assert f"{100 * line['saved']:.1f}" in page, line["rule"]
    assert f"{results['facts']['train_tokens']:,}" in page
    assert f"{results['facts']['text_tokens']:,}" in page


def test_the_page_has_what_the_readings_save() -> None:
    page, results = published("smollm2-reading.json")
    shown = re.findall(r"^\| [a-z ]+ \| (\d\.\d) % \[(\d\.\d), (\d\.\d)\] \|", page, re.MULTILINE)
    names = ["", " + position", " + cosine", " + margin", " + position + cosine + margin"]
    lines = {one["rule"]: one for one in results["lines"] if one["target"] == 0.95}
    wanted = [lines[f"linear-full-0{name}"] for name in names]
    assert shown[-len(wanted) :] == [
        tuple(f"{100 * value:.1f}" for value in (one["saved"], *one["saved_interval"]))
        for one in wanted
    ]
    assert f"{results['tokens']:,}" in page


def test_the_page_has_what_the_plain_loss_saves() -> None:
    page, results = published("smollm2-affine-317k-plain.json")
    assert results["facts"]["recipe"]["loss"] == "plain"
    for kind in ("linear", "ffn", "mamba"):
        seeds = [
            f"{100 * one['saved']:.1f}"
            for one in results["lines"]
            if one["rule"].startswith(kind) and one["target"] == 0.95
        ]
        assert f"`{kind}` {', '.join(seeds)} %" in page


def test_the_page_has_what_cheap_looks_save_and_shares_of_all_flops() -> None:
    page, results = published("smollm2-looks.json")
    lines = {
        (one["translators"], one["rule"]): one for one in results["lines"] if one["target"] == 0.95
    }
    look = "rank:32+shortlist:256"
    best = lines["affine", f"top_prob|{look}"]
    low, high = (f"{100 * one:.1f}" for one in best["saved_interval"])
    assert f"`{look}` | {100 * best['saved']:.1f} % [{low}, {high}] | {best['verdict']}" in page
    margin, entropy = (
        f"{100 * lines['affine', f'{name}|{look}']['saved']:.1f}" for name in ("margin", "entropy")
    )
    assert f"`margin` and `entropy` save {margin} and {entropy} %" in page
    totals = [one for one in results["lines_of_all_flops"] if one["target"] == 0.95]
    assert {one["verdict"] for one in totals} == {"loses"}
    heads = [100 * one["saved"] for one in totals if ", seed" in one["rule"]]
    assert len(heads) == 9
    assert all(0.3 <= round(one, 1) <= 0.4 for one in heads)
    other, two = published("smollm2-looks-two-exits.json", "cheap-look")
    (pair,) = (
        one
        for one in two["lines"]
        if (one["translators"], one["rule"]) == ("affine", f"top_prob|{look}")
        and one["target"] == 0.95
    )
    low, high = (f"{100 * one:.1f}" for one in pair["saved_interval"])
    assert f"saves {100 * pair['saved']:.1f} % [{low}, {high}]" in other


def test_the_page_has_what_other_recipes_reach() -> None:
    page, found = published("smollm2-recipes.json")
    assert recipes.table(found) in page


def test_the_page_of_mamba_heads_has_the_tables_of_its_results() -> None:
    page = (ROOT / "docs" / "mamba-heads.md").read_text(encoding="utf-8")
    files = dict(re.findall(r'"([^"=]+)=(benchmarks/[^"]+\.json)"', page))
    assert len(files) == 4
    studies = {title: json.loads((ROOT / file).read_text("utf-8")) for title, file in files.items()}
    assert kind_table.table(studies) in page


def test_the_page_of_mamba_heads_has_what_widths_save() -> None:
    page, results = published("smollm2-widths.json", "mamba-heads")
    lines = [
        one
        for one in results["lines"]
        if one["target"] == 0.95 and one["rule"] in results["classifier_flops"]
    ]
    assert {kind_of(one["rule"]) for one in lines} >= {"ffn, full", "mamba_depth, narrow"}
    for line in lines:
        low, high = (f"{100 * one:.1f}" for one in line["saved_interval"])
        check = results["classifier_flops"][line["rule"]] / 1000
        shown = f"{100 * line['saved']:.1f} % [{low}, {high}] | {line['verdict']} |"
        assert f"| `{kind_of(line['rule'])}` | {check:,.0f} | {shown}" in page


def test_the_page_of_mamba_heads_has_the_shares_of_all_flops_of_long_answers() -> None:
    """One of nine heads beats fixed depths at 0.95, all of them at 0.99."""
    page, results = published("smollm2-long.json", "mamba-heads")
    lines = [one for one in results["lines_of_all_flops"] if ", seed" in one["rule"]]
    by_target = {
        target: [one for one in lines if one["target"] == target] for target in (0.95, 0.99)
    }
    assert [one["rule"] for one in by_target[0.95] if one["verdict"] == "beats"] == [
        "ffn, narrow, seed 1"
    ]
    assert {one["verdict"] for one in by_target[0.95]} == {"beats", "not distinguishable"}
    assert {one["verdict"] for one in by_target[0.99]} == {"beats"}
    for target in (0.95, 0.99):
        saved = sorted(100 * one["saved"] for one in by_target[target])
        assert len(saved) == 9
        assert f"{saved[0]:.1f} to {saved[-1]:.1f} %" in page


def test_the_page_has_what_the_relaxed_label_saves() -> None:
    page, results = published("smollm2-top5.json")
    assert results["facts"]["label_k"] == 5
    for line in results["lines"]:
        if line["target"] == 0.95 and ", seed" in line["rule"]:
            low, high = (f"{100 * one:.1f}" for one in line["saved_interval"])
            shown = f"{100 * line['saved']:.1f} % [{low}, {high}] (`{line['rule'].split(',')[0]}`)"
            assert shown in re.sub(r"\s+", " ", page)
