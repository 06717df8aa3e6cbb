"""Runs of thousands of documents: whether memory and time a document stay as they are.

    python -m benchmarks.faults.long_run --documents 2000 --output_path OUT

The documents are pairs of the TriviaQA sample's questions. A quarter of them, half and all are
evaluated with traces, each run in a process of its own, whose memory is noted once a second.
Records of answers stay in memory until a run's end, when the trace is written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, permutations
from pathlib import Path
from typing import NamedTuple

import psutil

import dynamax_lm
from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_text

_TASK = """\
task: long_run
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {records}
validation_split: validation
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  do_sample: false
  max_gen_toks: 16
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
_SHARES = (4, 2, 1)
"""Runs of a quarter of the documents, of half, and of all."""


class Seen(NamedTuple):
    """One run.

    Attributes:
        documents: evaluated.
        seconds: of the whole process.
        memory: most resident bytes.
        trace: bytes of its trace.
    """

    documents: int
    seconds: float
    memory: int
    trace: int


def make_task(folder: Path, documents: int) -> None:
    """A task of so many different documents.

    Raises:
        ValueError: more documents than pairs of questions.
    """
    sample = Path(dynamax_lm.__file__).parent / "tasks" / "triviaqa" / "sample.jsonl"
    records = [json.loads(line) for line in sample.read_text("utf-8").splitlines()]
    pairs = list(islice(permutations(records, 2), documents))
    if len(pairs) < documents:
        raise ValueError(f"--documents {documents}: at most {len(pairs)}")
    lines = [
        json.dumps(
            {
                "question": f"{one['question']} {other['question']}",
                "answer": other["answer"]["value"],
            }
        )
        for one, other in pairs
    ]
    write_text(folder / "records.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "long_run.yaml", _TASK.format(records=folder / "records.jsonl"))


def watch(command: Sequence[str], documents: int, trace: Path, log: Path) -> Seen:
    """Run ``command`` to its end, and look at it once a second.

    Raises:
        RuntimeError: it failed.
    """
    start, most = time.monotonic(), 0
    with log.open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        known = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                most = max(most, known.memory_info().rss)
            time.sleep(1)
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: see {log}")
    size = sum(one.stat().st_size for one in trace.rglob("*") if one.is_file())
    return Seen(documents, time.monotonic() - start, most, size)


def table(seen: Sequence[Seen]) -> str:
    """Each run, and what each document cost beyond the run before."""
    rows = []
    for before, one in zip([None, *seen], seen, strict=False):
        more = [""] * 2
        if before is not None:
            added = one.documents - before.documents
            more = [
                f"{1e3 * (one.seconds - before.seconds) / added:.1f}",
                f"{(one.memory - before.memory) / 1024 / added:.1f}",
            ]
        sizes = [f"{one.memory / 2**20:.0f}", f"{one.trace / 2**20:.1f}"]
        rows.append([f"{one.documents:,}", f"{one.seconds:.0f}", *sizes, *more])
    headings = ["documents", "seconds", "most memory, MiB", "trace, MiB"]
    headings += ["ms for each further document", "KiB for each further document"]
    return markdown_table(headings, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(argv)
    out = Path(options.output_path)
    pages: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            seen = []
            for share in _SHARES:
                documents = options.documents // share
                folder = Path(name) / f"{model}-{documents}"
                make_task(folder, documents)
                args = f"pretrained=tiny,threshold=0.8,trace_dir={folder / 'trace'}"
                command = [sys.executable, "-m", "lm_eval", "run", "--model", model]
                command += ["--model_args", args, "--tasks", "long_run", "--batch_size", "8"]
                command += ["--include_path", str(folder), "--output_path", str(folder / "out")]
                log = out / f"{model}-{documents}.txt"
                log.parent.mkdir(parents=True, exist_ok=True)
                seen.append(watch(command, documents, folder / "trace", log))
            pages += [f"{model}\n", table(seen)]
            write_text(out / "long_run.md", "\n".join(pages) + "\n")
    print("\n".join(pages))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.long_run",
        description="Memory and speed of a long evaluation while it runs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    models = ["dynamax-mistral", "dynamax-mamba"]
    add("--models", nargs="+", choices=models, default=models)
    add("--documents", type=int, default=2000)
    add("--output_path", required=True)
    return parser


if __name__ == "__main__":
    main()
