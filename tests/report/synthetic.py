"""Results folders as lm-eval and this package write them, from random answers.

Everything published is computed by `summary` and `ledger` from the same records, as in a real run.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynamax_lm import __version__
from dynamax_lm.common.identity import fingerprint_of
from dynamax_lm.common.manifest import Manifest, manifest_beside
from dynamax_lm.common.tracefile import TraceWriter, trace_files
from dynamax_lm.core.full_depth import by_definition
from dynamax_lm.core.ledger import Ledger
from dynamax_lm.core.summary import HIGHER_IS_BETTER, Answer, Request, pool, summarise
from dynamax_lm.core.totals import RunTotals
from dynamax_lm.core.trace import AnswerTrace, ExitRecord
from dynamax_lm.decoders.costs.attention import AttentionCosts
from dynamax_lm.harness.results_config import CONVENTION
from dynamax_lm.report.load import load
from dynamax_lm.report.verify import Verification, verify

COSTS = AttentionCosts(
    n_layers=8,
    width=16,
    feedforward=24,
    query_heads=4,
    kv_heads=2,
    head_dim=4,
    vocabulary=64,
)
GENERATION, SCORING = "generate_until", "loglikelihood"


@dataclass(frozen=True)
class Made:
    """A written run: its results file and what stands beside it."""

    results: Path
    samples: Mapping[str, Path]
    traces: Path

    @property
    def manifest(self) -> Path:
        """The list of its files, as it wrote them."""
        path = manifest_beside(self.results)
        assert path is not None
        return path

    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.results.read_text()))

    def change(self, data: Mapping[str, Any]) -> None:
        self.results.write_text(json.dumps(data))


@dataclass
class Plan:
    """What to make up.

    Attributes:
        salt: stands for the samples: another one means other documents.
        gain: added to every document's metric.
        silent: how many generated answers begin with their stop.
        scale: the metric's width before the gain, so that both together can stay within [0, 1].
        right: how often a token is full depth's.
        maps: FLOPs of the prompt maps of a token, where the settings name some.
    """

    seed: int = 0
    documents: int = 5
    threshold: float = 0.5
    exits: tuple[int, ...] = (3, 5)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=lambda: {"gen": GENERATION, "mc": SCORING})
    version: float = 1.0
    few_shot: int = 0
    salt: str = ""
    gain: float = 0.0
    silent: int = 0
    scale: float = 1.0
    right: float = 0.8
    maps: int = 0
    stamp: str = "2026-01-01T00-00-00.000000"
    date: float = 1.8e9
    text: str = "an answer"


def write_run(folder: Path, plan: Plan | None = None) -> Made:
    """Writes one run below ``folder``."""
    plan = plan or Plan()
    settings = {
        "model": "dynamax-mistral",
        "pretrained": "org/model",
        "exit_layers": list(plan.exits),
        "confidence": "top_prob",
        "threshold": plan.threshold,
        "skipped_state": "propagate",
        "mode": "exit",
        "reference": True,
        "heads": None,
        "trace_dir": str(folder / "traces"),
        "dtype": "torch.float32",
        "weights": "0" * 16,
        "checkpoint": {"config": "0" * 16},
        "arguments": {},
        "heads_fingerprint": None,
        **plan.settings,
    }
    ledger = Ledger(
        COSTS,
        exit_layers=settings["exit_layers"],
        confidence=settings["confidence"],
        skipped_state=settings["skipped_state"],
        prompt_exit=settings.get("prompt_exit"),
        prompt_maps=plan.maps,
    )
    rng = random.Random(plan.seed)
    folder.mkdir(parents=True, exist_ok=True)
    totals, results, samples, hashes = RunTotals(), {}, {}, {}
    for task, kind in plan.tasks.items():
        documents = [
            _document(rng, kind, ledger, plan, silent=number < plan.silent)
            for number in range(plan.documents)
        ]
        totals.add(task, pool(documents))
        with TraceWriter(folder / "traces", task) as writer:
            for number, requests in enumerate(documents):
                for index, request in enumerate(requests):
                    for repeat, answer in enumerate(request.answers):
                        writer.write(number, index, repeat, answer.record.traces)
        lines = [_sample(n, requests, plan, rng) for n, requests in enumerate(documents)]
        samples[task] = folder / f"samples_{task}_{plan.stamp}.jsonl"
        samples[task].write_text("".join(json.dumps(line) + "\n" for line in lines))
        results[task] = {"name": task, **_table(task, lines)}
        each = [line[f"{of}_hash"] for line in lines for of in ("doc", "prompt", "target")]
        hashes[task] = _hash("".join(each))
    path = folder / f"results_{plan.stamp}.json"
    same = ("model", "pretrained", "dtype", "weights", "checkpoint", "arguments")
    shared = ("exit_layers", "confidence", "threshold", "skipped_state", "mode", "reference")
    shared += ("prompt_exit",) if "prompt_exit" in settings else ()
    maps = settings.get("prompt_maps")
    fingerprint = settings.get("prompt_maps_fingerprint")
    identity = {
        **{name: settings[name] for name in same},
        "settings": {name: settings[name] for name in shared}
        | ({"prompt_maps": fingerprint} if maps else {}),
        "version": __version__,
    }
    block = {
        "settings": settings,
        "identity": identity,
        "fingerprint": fingerprint_of(identity),
        "convention": CONVENTION,
        "layers": COSTS.n_layers,
        "costs": {"architecture": "attention", **asdict(COSTS), "exit_extras": []},
        "heads": None,
        "certificate": None,
        **totals.to_json(),
    }
    if maps:
        block["costs"]["prompt_maps"] = plan.maps
        same_exit = {"prompt_exit": settings["prompt_exit"]}
        block["prompt_maps"] = {"name": maps, "fingerprint": fingerprint, **same_exit}
    data = _results(plan, results, {"early_exit": block}) | {"task_hashes": hashes}
    data["config"]["model_args"] |= {"trace_dir": settings["trace_dir"]}
    path.write_text(json.dumps(data))
    made = Made(path, samples, folder / "traces")
    files = [made.results, *made.samples.values()]
    named = {"version": __version__, "fingerprint": block["fingerprint"]}
    Manifest.of(files, trace_files(made.traces), **named).write(made.manifest)
    return made


def write_plain(folder: Path, plan: Plan | None = None) -> Path:
    """Writes a run of a model that is not ours."""
    plan = plan or Plan()
    folder.mkdir(parents=True, exist_ok=True)
    results = {task: {"alias": task, "em,none": 0.5, "em_stderr,none": 0.1} for task in plan.tasks}
    path = folder / f"results_{plan.stamp}.json"
    data = _results(plan, results, {}) | {"task_hashes": {}}  # which lm-eval makes of samples
    data["config"] |= {"model": "hf", "model_args": "pretrained=org/model,dtype=float32"}
    path.write_text(json.dumps(data))
    return path


def _results(plan: Plan, results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    listed = [{"metric": "em", "aggregation": "mean", "higher_is_better": True}]
    return {
        "results": results,
        "configs": {
            task: {
                "task": task,
                "output_type": kind,
                "metric_list": listed,
                "generation_kwargs": {"until": ["\n"]},
                "repeats": 1,
                "num_fewshot": plan.few_shot,
                "metadata": {"version": plan.version},
            }
            for task, kind in plan.tasks.items()
        },
        "versions": dict.fromkeys(plan.tasks, plan.version),
        "n-shot": dict.fromkeys(plan.tasks, plan.few_shot),
        "higher_is_better": {
            task: {**HIGHER_IS_BETTER, "em": True, "full_depth_em": True} for task in plan.tasks
        },
        "n-samples": {
            task: {"original": plan.documents, "effective": plan.documents} for task in plan.tasks
        },
        "task_hashes": {task: f"{task}{plan.salt}{plan.documents}" for task in plan.tasks},
        "config": {
            "model": "dynamax-mistral",
            "model_args": {"pretrained": "org/model"},
            "model_dtype": "torch.float32",
            "model_revision": "main",
            **config,
        },
        **dict.fromkeys(
            ("system_instruction", "system_instruction_sha", "chat_template", "chat_template_sha")
        ),
        "model_source": "dynamax-mistral",
        "model_name": "org/model",
        "model_name_sanitized": "org__model",
        "date": plan.date,
        "group_subtasks": {},
    }


def _document(
    rng: random.Random, kind: str, ledger: Ledger, plan: Plan, *, silent: bool
) -> list[Request]:
    prompt = rng.randint(2, 9)
    requests = []
    for _ in range(1 if kind == GENERATION else 3):
        length = rng.randint(1, 6)
        tokens = tuple(rng.randrange(4, 60) for _ in range(length))
        likely = [rng.random() < plan.right for _ in tokens]
        scored = kind != GENERATION
        emitted = tuple(t if not scored or rng.random() < 0.5 else 3 for t in tokens)
        depths = tuple(
            rng.choice([*plan.settings.get("exit_layers", plan.exits), 8]) for _ in tokens
        )
        state = str(plan.settings.get("skipped_state", "propagate"))
        prompt_exit = plan.settings.get("prompt_exit")
        early = prompt_exit is not None
        own = by_definition(depths, COSTS.n_layers, state, prompt_exited=early)
        agrees = [same or known for same, known in zip(likely, own, strict=True)]
        full = tuple(e if same else 2 for e, same in zip(emitted, agrees, strict=True))
        again = tuple(
            (e if same else 2) if known else None
            for e, same, known in zip(emitted, likely, own, strict=True)
        )
        sure = tuple(_confidence(rng, plan.threshold, depth < 8) for depth in depths)
        trace = AnswerTrace(
            *(prompt, tokens, emitted, depths, sure, full, again), prompt_exit=prompt_exit
        )
        if not scored:
            trace = replace(trace, text_tokens=0 if silent else rng.randint(1, length))
        bill, text_bill = (ledger.answer(prompt, t.layers_used) for t in (trace, trace.text))
        if kind == GENERATION:
            reference: Any = plan.text if all(agrees) else f"{plan.text}?"
            response: Any = plan.text
        else:
            reference = (-rng.random(), emitted == tokens)
            response = (_log_likelihood(rng, trace), emitted == tokens)
        record = ExitRecord("print", (trace,), bill, reference, text_bill)
        requests.append(Request(kind, (Answer(response, record),)))
    return requests


def _confidence(rng: random.Random, threshold: float, leaves: bool) -> float:
    """A float32 on the right side of the threshold."""
    if not 0.0 < threshold < 1.0:
        return float(np.float32(rng.uniform(0.1, 0.9)))
    low, high = (threshold, 1.0) if leaves else (max(0.02, 0.1 * threshold), threshold)
    return float(np.float32(rng.uniform(low + 1e-4, high - 1e-4)))


def _log_likelihood(rng: random.Random, trace: AnswerTrace) -> float:
    """A sum that the largest probabilities of the exits allow."""
    total = 0.0
    for row in trace.rows():
        sure = row.confidence or 1.0
        if row.layers_used == COSTS.n_layers:
            total -= rng.random()
        elif row.token == row.emitted:
            total += math.log(sure)
        else:
            total += math.log(min(sure, 1.0 - sure)) - rng.random()
    return total


def _sample(
    number: int, requests: Sequence[Request], plan: Plan, rng: random.Random
) -> dict[str, Any]:
    values = dict(summarise(requests).values())
    em = round(plan.scale * rng.random(), 3) + plan.gain
    same = values.get("consistency") == 1.0
    values |= {"full_depth_em": em if same else round(rng.random(), 3), "em": em}
    generated = requests[0].kind == GENERATION
    doc = {"number": number, "salt": plan.salt}
    prompt, target = f"prompt {number} {plan.few_shot}", f"target {number}"
    second: Any = {"until": ["\n"]} if generated else plan.text
    shown = [
        [[r.answers[0].response] if generated else list(map(str, r.answers[0].response))]
        for r in requests
    ]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {
            f"gen_args_{i}": {"arg_0": prompt, "arg_1": second} for i in range(len(requests))
        },
        "resps": [answers[0] if generated else answers for answers in shown],
        "filtered_resps": [answers[0][0] if generated else answers[0] for answers in shown],
        "filter": "none",
        "metrics": list(values),
        "doc_hash": _hash(json.dumps(doc, indent=2)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        **values,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _table(task: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {"alias": task, "sample_len": len(lines)}
    for name in dict.fromkeys(name for line in lines for name in line["metrics"]):
        numbers = [line[name] for line in lines if name in line]
        mean = sum(numbers) / len(numbers)
        table[f"{name},none"] = mean
        spread = sum((x - mean) ** 2 for x in numbers) / max(1, len(numbers) - 1)
        several = len(numbers) > 1
        table[f"{name}_stderr,none"] = math.sqrt(spread / len(numbers)) if several else "N/A"
    return table


def verified(made: Made) -> Verification:
    """What verification finds in one run by its numbers: its manifest would name every change."""
    made.manifest.unlink(missing_ok=True)
    return verify(load([made.results]))
