"""Benchmarks of whole evaluations against lm-eval's ``hf`` model, in seconds and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynamax_lm.bench.evaluation import evaluate
from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import alternate

TASK = "dynamax_coqa_sample"


def runs(subject: Subject) -> Iterator[Row]:
    """The sample of CoQA, on the embedded model, and on the subject if its vocabulary fits."""
    name = subject.name.split()[0] + " tiny"
    some = {"limit": 4 if subject.quick else None}
    yield from _compare(subject, name, "embedded model, " + TASK, embedded(subject), **some)
    if fits_tokenizer(subject):
        with saved(subject) as folder:
            what = f"{subject.layers} layers, 8 documents of {TASK}, 32 new tokens"
            options = {"limit": 8, "gen_kwargs": {"max_gen_toks": 32}}
            yield from _compare(subject, subject.name, what, folder, **options)


def embedded(subject: Subject) -> str:
    """The folder of the embedded model."""
    from dynamax_lm.decoders.checkpoint import ATTENTION, MAMBA2, resolve_name

    return resolve_name("tiny", ATTENTION if subject.attention else MAMBA2)


def fits_tokenizer(subject: Subject) -> bool:
    """Whether the subject can be measured with the embedded model's tokenizer, and is to be."""
    from transformers import AutoConfig

    tokens = AutoConfig.from_pretrained(embedded(subject)).vocab_size
    return not subject.quick and bool(subject.config.vocab_size >= tokens)


@contextmanager
def saved(subject: Subject) -> Iterator[str]:
    """The subject as a checkpoint, with the embedded model's tokenizer."""
    with tempfile.TemporaryDirectory() as scratch:
        subject.model.save_pretrained(scratch)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (Path(scratch) / name).write_bytes((Path(embedded(subject)) / name).read_bytes())
        yield scratch


def _compare(subject: Subject, name: str, what: str, folder: str, **options: Any) -> Iterator[Row]:
    from lm_eval.models.huggingface import HFLM

    from dynamax_lm.harness.plugin.task_folder import own_tasks
    from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral

    manager = own_tasks()
    shared = {
        "pretrained": folder,
        "batch_size": 8,
        "device": str(subject.stack.device),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
    }
    hf = HFLM(**shared)
    mine = (DynamaxMistral if subject.attention else DynamaxMamba)(**shared)
    cut = mine.config.num_hidden_layers * 3 // 4

    def ours(**own: Any) -> object:
        mine.change(**own)
        return evaluate(mine, [TASK], manager, **options)

    quarter = {"exit_layers": cut, "threshold": 0}
    found = alternate(
        {
            "hf": lambda: evaluate(hf, [TASK], manager, **options),
            "threshold 1, reference": lambda: ours(threshold=1, reference=True),
            "a quarter saved": lambda: ours(**quarter, reference=False),
            "a quarter saved, reference": lambda: ours(**quarter, reference=True),
        },
        max(1, subject.rounds // 2),
    )
    goals = {
        "threshold 1, reference": 1.15,
        "a quarter saved": 1.0,
        "a quarter saved, reference": 2.0,
    }
    for run, goal in goals.items():
        yield Row(
            "Runs",
            name,
            f"{what}: {run}",
            "ours / lm-eval hf",
            found[run] / found["hf"],
            goal,
            at_most=True,
            seconds={"ours": found[run], "hf": found["hf"]},
        )


def memory(subject: Subject) -> Iterator[Row]:
    """Peak resident memory of the same run in a process of its own."""
    with saved(subject) as scratch:
        shared = f"pretrained={scratch},dtype={str(subject.model.dtype).removeprefix('torch.')}"
        hf = _peak("hf", shared, subject)
        for what, extra in [("threshold 1", ",threshold=1"), ("threshold 0", ",threshold=0")]:
            ours = _peak(subject.kind, shared + extra, subject)
            yield Row(
                "Memory",
                subject.name,
                f"8 documents of {TASK}, {what}, reference on",
                "ours / lm-eval hf",
                ours / hf,
                1.1,
                at_most=True,
                seconds={"ours": ours, "hf": hf},
            )


def _peak(model: str, model_args: str, subject: Subject) -> float:
    """Peak memory, in bytes, of a run in a process of its own."""
    command = [sys.executable, "-m", "dynamax_lm", "--model", model, "--model_args", model_args]
    command += ["--tasks", TASK, "--limit", "8", "--batch_size", "8", "--verbosity", "ERROR"]
    command += ["--gen_kwargs", "max_gen_toks=32", "--device", str(subject.stack.device)]
    return peak_resident(command)


def peak_resident(command: list[str]) -> float:
    """Peak memory of ``command``, in bytes.

    On Linux a process inherits the peak of its parent up to ``exec``: a small process in between
    starts the command, since otherwise this process's peak would be a lower bound.
    """
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout) * 1024


_WATCH = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""
