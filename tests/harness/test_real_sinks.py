"""The real W&B, offline, and the real trackio take our runs; both are installed from the registry.

The recorders of `test_sinks` say what each sink is given, on every run of the tests. This says that
the recorders are no kinder than the real ones.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import save_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TOYS = str(Path(__file__).parent / "toys")
TASKS = ("toy_gen", "toy_ll", "toy_mc", "toy_rolling")
KEYS = ("layers_used", "flops_saved", "agreement", "consistency", "full_depth_acc")
READ_BACK = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("ours")
numbers = [log for log in SQLiteStorage.get_logs("ours", run.name) if "toy_mc/acc" in log]
traces = [trace["metadata"] for trace in SQLiteStorage.get_traces("ours", run.name)]
print(json.dumps([numbers, traces, run.config["cli_configs"]["early_exit"]], default=str))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment that sees this one's libraries and has both sinks."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    interpreter = str(folder / "bin" / "python")
    (libraries,) = folder.glob("lib/*/site-packages")
    lines = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (libraries / "libraries.pth").write_text("\n".join(lines))
    run(interpreter, "-m", "pip", "install", "--quiet", "wandb>=0.13.6", "trackio", folder=folder)
    return interpreter


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


@pytest.mark.parametrize(("kind", "model"), [("mistral", "mistral"), ("mamba2", "mamba")])
def test_both_keep_what_the_run_says(python: str, kind: str, model: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", kind)
    told = {
        "WANDB_MODE": "offline",
        "WANDB_DATA_DIR": str(tmp_path / "staging"),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "LMEVAL_LOG_LEVEL": "INFO",
    }
    ran = run(
        *(python, "-m", "dynamax_lm", "run", "--model", f"dynamax-{model}", "--device", "cpu"),
        *("--model_args", "pretrained=checkpoint,dtype=float32,threshold=0.3"),
        *("--tasks", ",".join(TASKS), "--include_path", TOYS, "--limit", "3"),
        *("--gen_kwargs", "max_gen_toks=8", "--log_samples", "--output_path", "out"),
        *("--wandb_args", "project=ours", "--trackio_args", "project=ours"),
        folder=tmp_path,
        **told,
    )
    assert "failed" not in ran.stderr.lower()
    results = json.loads(next(tmp_path.glob("out/*/results_*.json")).read_text())
    (numbers,), traces, block = json.loads(
        run(python, "-c", READ_BACK, folder=tmp_path, **told).stdout.splitlines()[-1]
    )
    assert block == results["config"]["early_exit"]
    for key in KEYS:
        assert numbers[f"toy_mc/{key}"] == results["results"]["toy_mc"][f"{key},none"]
    for task in TASKS:
        samples = samples_in(tmp_path, task)
        rows = table_in(tmp_path, task)
        kept = [trace for trace in traces if trace["task"] == task]
        kept.sort(key=lambda trace: (trace["filter"], trace["doc_id"]))
        for sample, row, trace in zip(samples, rows, kept, strict=True):
            for key in KEYS:
                assert row.get(key) == trace.get(key) == sample.get(key)
    row = table_in(tmp_path, "toy_rolling")[0]
    pair = samples_in(tmp_path, "toy_rolling")[0]["full_depth_word_perplexity"]
    named = ("full_depth_word_perplexity_loglikelihood", "full_depth_word_perplexity_words")
    assert [row[name] for name in named] == pair


def samples_in(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"out/*/samples_{task}_20*.jsonl")
    return in_order(json.loads(line) for line in file.read_text().splitlines())


def table_in(folder: Path, task: str) -> list[dict[str, Any]]:
    """The table of a task's samples as W&B wrote it, in the order of the samples."""
    (file,) = folder.glob(f"wandb/offline-run-*/files/media/table/{task}_eval_results_*.json")
    table = json.loads(file.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    (samples,) = folder.glob(f"out/*/samples_{task}_20*.jsonl")
    filters = [json.loads(line)["filter"] for line in samples.read_text().splitlines()]
    return in_order(
        row | {"doc_id": row["id"], "filter": name} for row, name in zip(rows, filters, strict=True)
    )


def in_order(rows: Any) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["filter"], row["doc_id"]))
