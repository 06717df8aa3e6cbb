"""The command: what it writes, says and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import GENERATION, Plan, write_plain, write_run

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.outputs import write_bytes
from dynamax_lm.report.__main__ import main

ONE = {"gen": GENERATION}


def test_a_report_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "in" / "a", Plan(tasks=ONE))
    write_plain(tmp_path / "in" / "b", Plan(tasks=ONE))
    (tmp_path / "in" / "results_x.json").write_text("{")
    out = tmp_path / "out"
    assert main([str(tmp_path / "in"), "--output_path", str(out)]) == 0
    said = capsys.readouterr()
    assert str(out / "index.html") in said.out
    assert "results_x.json" in said.err
    names = {path.name for path in out.iterdir()}
    tables = {"leaderboard.md", "leaderboard.csv", "leaderboard.json"}
    assert names == tables | {"index.html", "pictures", "tokens"}
    kinds = ("depths", "ledger", "reliability", "saved")
    drawn = [f"org_model_gen_{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")]
    files = sorted(path.name for path in (out / "pictures").iterdir())
    assert files == sorted([*drawn, "org_model_gen_saved.csv"])
    (page,) = (out / "tokens").iterdir()
    html = (out / "index.html").read_text()
    assert f'href="tokens/{page.name}"' in html
    assert "results_x.json" in html
    assert len(json.loads((out / "leaderboard.json").read_text())["rows"]) == 2


def test_verify_says_what_differs_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_run(tmp_path, Plan(tasks=ONE))
    assert main([str(tmp_path), "--verify"]) == 0
    assert " 0 do not match" in capsys.readouterr().out
    data = made.data()
    data["results"]["gen"]["agreement,none"] += 0.01
    made.change(data)
    assert main([str(tmp_path), "--verify"]) == 1
    assert "does not match" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["traces", made.results.name, made.samples["gen"].name, made.manifest.name]
    )


def test_verify_does_not_pass_what_it_could_not_check(tmp_path: Path) -> None:
    write_plain(tmp_path, Plan(tasks=ONE))
    with pytest.raises(SettingError, match="no"):
        main([str(tmp_path), "--verify"])


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_bytes(path, b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_path_is_one_line_and_no_model_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys, runpy\n"
        "from dynamax_lm.report.__main__ import main\n"
        f"main([{str(tmp_path)!r}, '--output_path', {str(tmp_path / 'out')!r}])\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    write_run(tmp_path / "a", Plan(tasks=ONE, settings={"pretrained": "tiny"}))
    write_run(tmp_path / "b", Plan(tasks=ONE))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "dynamax_lm.report", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "nowhere" in done.stderr


def test_an_output_path_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "in", Plan(tasks=ONE))
    (tmp_path / "taken").touch()
    with pytest.raises(SettingError, match="taken is a file"):
        main([str(tmp_path / "in"), "--output_path", str(tmp_path / "taken")])
