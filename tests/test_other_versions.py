"""Files of another version are refused in one line that says how to bring them over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.common import certificate, manifest
from dynamax_lm.common.certificate import Certificate
from dynamax_lm.common.manifest import Manifest
from dynamax_lm.common.tracefile import read_trace
from dynamax_lm.core import totals
from dynamax_lm.heads import HeadsConfig
from dynamax_lm.heads import config as heads
from dynamax_lm.heads import prompt_map_config as maps
from dynamax_lm.heads.prompt_map_config import PromptMapsConfig
from dynamax_lm.report.load import load
from tests.certify.certificates import make_certificate
from tests.heads.builders import heads_config, random_maps
from tests.report.synthetic import Plan, write_run

UPDATE = "update dynamax-lm"


def read_heads(schema: int, folder: Path) -> None:
    given = json.loads(heads_config().to_json()) | {"schema": schema, "news": 1}
    HeadsConfig.from_json(json.dumps(given))


def read_maps(schema: int, folder: Path) -> None:
    given = json.loads(random_maps(16, 4, 1).config.to_json()) | {"schema": schema, "news": 1}
    PromptMapsConfig.from_json(json.dumps(given))


def read_certificate(schema: int, folder: Path) -> None:
    given = make_certificate().to_json() | {"schema": schema, "news": 1}
    Certificate.from_json(given)


def read_manifest(schema: int, folder: Path) -> None:
    path = folder / "manifest_now.json"
    path.write_text(json.dumps({"schema": schema, "news": 1}))
    Manifest.read(path)


def read_results(schema: int, folder: Path) -> None:
    write_run(folder)
    (path,) = folder.rglob("results_*.json")
    data = json.loads(path.read_text())
    data["config"]["early_exit"] = {"schema": schema, "news": 1}
    path.write_text(json.dumps(data))
    load([folder])


KINDS: dict[str, tuple[Callable[[int, Path], None], int, str]] = {
    "heads": (read_heads, heads.SCHEMA, "train them again"),
    "prompt maps": (read_maps, maps.SCHEMA, "fit them again"),
    "certificate": (read_certificate, certificate.SCHEMA, "certify again"),
    "manifest": (read_manifest, manifest.SCHEMA, "run it again"),
    "results": (read_results, totals.SCHEMA, "run it again"),
}


def refusal(read: Callable[[int, Path], None], schema: int, folder: Path) -> str:
    with pytest.raises(ValueError, match="schema") as caught:
        read(schema, folder)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_file_asks_for_a_newer_package(kind: str, tmp_path: Path) -> None:
    read, known, _ = KINDS[kind]
    assert UPDATE in refusal(read, known + 1, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_file_says_how_to_renew_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no older version was published: as the next version will refuse this one."""
    read, known, renew = KINDS[kind]
    if known == 1:
        monkeypatch.setattr(HeadsConfig, "SCHEMA", 2)
        monkeypatch.setattr(PromptMapsConfig, "SCHEMA", 2)
        monkeypatch.setattr(manifest, "SCHEMA", 2)
        known = 2
    line = refusal(read, known - 1, tmp_path)
    assert renew in line
    assert UPDATE not in line


@pytest.mark.parametrize(
    ("change", "then"),
    [
        (lambda row: row.pop("text_tokens"), "run it again"),
        (lambda row: row.pop("prompt_tokens"), "run it again"),
        (lambda row: row.update(news=1), UPDATE),
    ],
)
def test_rows_of_a_trace_of_another_version(
    change: Callable[[dict[str, Any]], Any], then: str, tmp_path: Path
) -> None:
    write_run(tmp_path, Plan())
    path = next(tmp_path.rglob("trace_*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[-1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=then) as caught:
        list(read_trace(path))
    assert len(str(caught.value).splitlines()) == 1
