"""The page on prompts that exit has the tables of its data, and these follow from their rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.prompt_exit import shares
from benchmarks.prompt_exit_page import groups_of, picture, prefill_table, table
from benchmarks.published import published
from dynamax_lm.common.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "benchmarks" / "prompt_exit.json").read_text())
    return read


@pytest.fixture(scope="module")
def ledger() -> tuple[list[str], list[list[str]]]:
    return shares()


def test_the_page_has_the_tables(
    data: dict[str, Any], ledger: tuple[list[str], list[list[str]]]
) -> None:
    page = (ROOT / "docs" / "prompt-exit-measured.md").read_text(encoding="utf-8")
    for group in groups_of(data["settings"]):
        assert table(group) in page
        assert f"{group[0]['documents']} documents" in page
    assert prefill_table(data["prefill"]) in page
    bill = (ROOT / "docs" / "prompt-exit.md").read_text(encoding="utf-8")
    assert markdown_table(*ledger) in bill


def test_fixed_depths_and_prompts_save_what_the_ledger_says(data: dict[str, Any]) -> None:
    """A fixed depth its share of the layers, about; a prompt exit no more than its own depth."""
    for one in data["settings"]:
        saved, layers = one["flops_saved_total"], one["layers"]
        if one["fixed_depth"]:
            assert saved == pytest.approx(1 - one["fixed_depth"] / layers, abs=0.02)
        elif one["prompt_exit"] and one["line"] == "full-depth answers":
            assert one["flops_saved"] == 0 < saved < 1 - one["prompt_exit"] / layers


def test_maps_cost_part_of_the_saving(data: dict[str, Any]) -> None:
    """Of the same checkpoint, task, prompt exit and answers; and some were measured."""

    def key(one: dict[str, Any]) -> tuple[object, ...]:
        line = one["line"].removesuffix(", maps")
        return one["checkpoint"], one["task"], line, one["prompt_exit"]

    plain = {key(one): one for one in data["settings"] if not one.get("maps")}
    mapped = [one for one in data["settings"] if one.get("maps")]
    assert mapped
    compared = 0
    for one in mapped:
        assert one["line"].endswith(", maps")
        other = plain[key(one)]
        assert one["flops_saved_total"] > 0
        if other["consistency"][0] > 0.05:  # else its answers, which run on, have other lengths
            assert one["flops_saved_total"] < other["flops_saved_total"]
            compared += 1
    assert compared >= len(mapped) - 1


def test_the_picture_has_a_column_for_each_table(data: dict[str, Any]) -> None:
    assert len(picture(data["settings"]).axes) == 2 * len(groups_of(data["settings"]))


def test_a_skipped_layer_costs_its_state_alone(ledger: tuple[list[str], list[list[str]]]) -> None:
    costs = published()["Codestral Mamba 7B"]
    row = next(row for row in ledger[1] if row[0] == "Codestral Mamba 7B")
    state, layer = costs.states("propagate", costs.n_layers - 1), costs.layers(0, 0, 1)
    for quarter, share in zip((1, 2, 3), row[1:], strict=True):
        expected = (quarter + (4 - quarter) * state / layer) / 4
        assert share == f"{100 * expected:.1f} %"
