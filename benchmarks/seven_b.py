"""The commands of ``docs/seven-b.md`` from end to end, on random weights of the 7B shapes.

    python -m benchmarks.seven_b --tokenizer FOLDER --train_data FILE.jsonl --memory_gib 24 \
        --output_path benchmarks/speed/gpu/seven_b

Checkpoints are drawn and saved first. The rest of the GPU's memory is held by this process, so that
the commands, each in a process of its own, see a card of ``--memory_gib``; the largest use of it is
observed from here. Published data sets are replaced by the package's samples. What a command prints
is kept beside the table. Without a GPU they run on the processor, in the memory of the machine;
``--small`` tries them on small shapes.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dynamax_lm.common.markdown import markdown_table
from dynamax_lm.common.outputs import write_json, write_text
from dynamax_lm.common.processor import processor_name

_GIB = 1 << 30
_EVERY = 0.05
"""Seconds between two looks at the memory."""
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

MISTRAL: dict[str, Any] = {
    "model_type": "mistral",
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
"""Of ``mistralai/Mistral-7B-v0.3``."""
CODESTRAL: dict[str, Any] = {
    "model_type": "mamba2",
    "vocab_size": 32768,
    "hidden_size": 4096,
    "num_hidden_layers": 64,
    "num_heads": 128,
    "head_dim": 64,
    "expand": 2,
    "n_groups": 8,
    "state_size": 128,
    "conv_kernel": 4,
    "chunk_size": 256,
    "tie_word_embeddings": False,
}
"""Of ``mistralai/Mamba-Codestral-7B-v0.1``."""
_SMALL: dict[str, dict[str, Any]] = {
    "mistral": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "mamba2": {
        "hidden_size": 64,
        "num_hidden_layers": 8,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "state_size": 16,
    },
}
MODELS = {"dynamax-mistral": MISTRAL, "dynamax-mamba": CODESTRAL}
TASKS = "dynamax_triviaqa_sample,dynamax_coqa_sample,dynamax_truthfulqa_mc1_sample"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One command that was run.

    Attributes:
        model: its ``--model``.
        what: which command.
        command: as typed; folders of this run are left out of their paths.
        status: its exit status; 124 where it was ended after its time.
        seconds: wall-clock, loading included.
        gib: most memory of the GPU, or of a machine without one, that it held at once.
    """

    model: str
    what: str
    command: str
    status: int
    seconds: float
    gib: float


def save_random(config: Mapping[str, Any], tokenizer: Path, folder: Path, device: str) -> None:
    """A checkpoint with random weights in bfloat16 and a given tokenizer."""
    named = dict(config)
    made = AutoConfig.for_model(
        named.pop("model_type"), bos_token_id=1, eos_token_id=2, pad_token_id=0, **named
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in _TOKENIZER:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / name)
    del model
    gc.collect()  # modules hold each other: the commands need this memory


def commands(
    model: str, checkpoint: Path, folder: Path, options: argparse.Namespace
) -> Iterator[tuple[str, list[str]]]:
    """What is run of one model, in order; each with its name."""
    python, limit = [sys.executable, "-m"], ["--limit", str(options.limit)]
    trained = f"pretrained={checkpoint},dtype=bfloat16"
    args = f"{trained},max_length=4096"
    run = [*python, "lm_eval", "run", "--model", model, "--tasks", TASKS, "--batch_size", "8"]
    heads = folder / "heads"
    train = [*python, "dynamax_lm.heads.train", "--model", model, "--model_args", trained]
    train += ["--data", str(options.train_data), "--text_field", options.text_field]
    train += ["--max_steps", str(options.max_steps), "--calibration_tokens", "4096"]
    train += shlex.split(options.train_args)
    yield "heads.train", [*train, "--output_path", str(heads)]
    for what, more in (
        ("lm_eval, exits by top_prob", "threshold=0.9"),
        ("lm_eval, trained heads", f"heads={heads}"),
        ("lm_eval, mode=full", "mode=full"),
        ("lm_eval, mode=lossless", f"mode=lossless,heads={heads}"),
    ):
        own = ["--output_path", str(folder / what.rpartition(" ")[2].replace("=", "-"))]
        yield what, [*run, *limit, "--model_args", f"{args},{more}", *own]
    shared = ["--model", model, "--model_args", args, "--tasks", TASKS, *limit]
    headroom = [*python, "dynamax_lm.headroom", *shared, "--batch_size", "8"]
    yield "headroom", [*headroom, "--output_path", str(folder / "headroom")]
    sweep = [*python, "dynamax_lm.sweep", *shared, "--batch_size", "8", "--thresholds", "0.5,0.9"]
    yield "sweep", [*sweep, "--output_path", str(folder / "sweep")]
    paper = [*python, "benchmarks.paper", "--backbones", f"{model}={checkpoint}"]
    paper += ["--model_args", "dtype=bfloat16", "--eval_args", "max_length=4096"]
    paper += ["--tasks", *TASKS.split(",")[:2]]
    paper += ["--thresholds", "0.5", "0.9", "--classifiers", "mamba", *limit]
    paper += ["--width", "narrow", "--train_data", str(options.train_data)]
    more = f"--text_field {options.text_field} --calibration_tokens 4096 {options.train_args}"
    paper += ["--max_steps", str(options.max_steps), f"--train_args={more}"]
    yield "benchmarks.paper", [*paper, "--output_path", str(folder / "paper")]


class Watch:
    """The memory in use on the GPU, or of the machine without one, beyond that at the beginning."""

    def __init__(self) -> None:
        self._gpu = torch.cuda.is_available()
        self._at_first = self._free()
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _free(self) -> int:
        if self._gpu:
            return torch.cuda.mem_get_info()[0]
        return int(psutil.virtual_memory().available)

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            self.most = max(self.most, self._at_first - self._free())

    @contextmanager
    def looking(self) -> Iterator[Watch]:
        """Looks while the body runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._done.set()
            self._thread.join()


def hold_all_but(gib: float) -> list[torch.Tensor]:
    """Memory of the GPU, so that about ``gib`` GiB of it remain free."""
    if not torch.cuda.is_available():
        return []
    torch.zeros(1, device="cuda")
    spare = torch.cuda.mem_get_info()[0] - int(gib * _GIB)
    return [torch.empty(max(0, spare), dtype=torch.uint8, device="cuda")]


def measure(
    model: str, what: str, command: Sequence[str], root: Path, log: Path, timeout: float
) -> Outcome:
    """Run one command; what it prints goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Watch().looking() as watch, log.open("w", encoding="utf-8") as file:
        try:
            status = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
    taken = time.perf_counter() - start
    typed = shlex.join(["python", *command[1:]]).replace(f"{root}/", "")
    return Outcome(model, what, typed, status, round(taken, 1), round(watch.most / _GIB, 1))


def page(outcomes: Sequence[Outcome], hardware: str) -> str:
    """The table, and the commands as they were typed."""
    headings = ["model", "what", "exit status", "seconds, loading included", "memory, GiB"]
    rows = [
        [one.model, one.what, str(one.status), f"{one.seconds:.0f}", f"{one.gib:.1f}"]
        for one in outcomes
    ]
    typed = [f"    {one.command}" for one in outcomes]
    return "\n".join([hardware, "", markdown_table(headings, rows), "", *typed, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status counts commands that failed."""
    options = _parser().parse_args(argv)
    folder, work = Path(options.output_path).resolve(), Path(options.work_path).resolve()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made: dict[str, Path] = {}
    for model in options.models:
        config = MODELS[model] | (_SMALL[MODELS[model]["model_type"]] if options.small else {})
        made[model] = work / model / "checkpoint"
        save_random(config, Path(options.tokenizer), made[model], device)
        print(f"{made[model]}: drawn and saved", flush=True)
    torch.cuda.empty_cache()
    held = hold_all_but(options.memory_gib)
    card = torch.cuda.get_device_name() if held else processor_name()
    limited = f", {options.memory_gib:g} GiB of it free" if held else ""
    hardware = f"{card}{limited}, torch {torch.__version__}."
    outcomes: list[Outcome] = []
    for model, checkpoint in made.items():
        for what, command in commands(model, checkpoint, work / model, options):
            log = folder / "printed" / model / f"{what.replace(' ', '_').replace(',', '')}.txt"
            outcomes.append(measure(model, what, command, work, log, options.timeout))
            print(outcomes[-1], flush=True)
            known = {"hardware": hardware, "commands": [asdict(one) for one in outcomes]}
            write_json(folder / "seven_b.json", known, indent=1)
            write_text(folder / "seven_b.md", page(outcomes, hardware))
    return sum(one.status != 0 for one in outcomes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seven_b",
        description="The commands of docs/seven-b.md on random weights of the 7B shapes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--tokenizer", required=True, help="folder of a tokenizer of 32,768 tokens")
    add("--train_data", required=True, help="for heads.train --data")
    add("--text_field", default="text", help="as in heads.train")
    add("--train_args", default="", help="further options of heads.train, as one text")
    add("--max_steps", type=int, default=4, help="of training")
    add("--limit", type=int, default=2, help="documents of each task")
    add("--memory_gib", type=float, default=24.0, help="of the GPU, for each command")
    add("--timeout", type=float, default=600.0, help="seconds of one command")
    add("--small", action="store_true", help="small shapes, to try the commands")
    add("--work_path", required=True, help="folder of the checkpoints and of results: 30 GB")
    add("--output_path", required=True, help="folder of the table and of what was printed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
