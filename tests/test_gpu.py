"""The laws on a CUDA device: the same decisions as on a CPU, with whatever kernels are installed.

Run by ``pytest -m gpu`` alone. With ``mamba-ssm`` and ``causal-conv1d`` installed their kernels are
what is tested.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from dynamax_lm.bench.__main__ import main as bench
from dynamax_lm.core import catchup
from dynamax_lm.core.loop import run_token_batch
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.recorded_steps import RecordedSteps
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.prefill import prefill
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
from tests.builders import SKIPPED, STACKS, catch_up, never, random_model
from tests.checkpoints import save_checkpoint
from tests.laws import Ignore, Tally
from tests.lm_requests import texts
from tests.stacks import remembered

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
ROWS = [(5, 9, 2, 40, 17), (3,), (7, 7, 1, 30, 21, 50, 60, 11)]
MAMBA2 = {"hidden_size": 64, "num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1}
"""What the kernels of ``mamba-ssm`` take, and transformers gives them."""
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(autouse=True)
def _exact_and_without_gradients() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        yield


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """The same stack on a CPU and on the device."""
    model = random_model(kind, **(MAMBA2 if kind == "mamba2" else {}), **options)
    return STACKS[kind](model), STACKS[kind](copy.deepcopy(model).to(DEVICE))


@pytest.mark.parametrize("kind", ["mistral", "llama", "mamba2"])
def test_the_forward_is_transformers_own(kind: str) -> None:
    model = random_model(kind, **(MAMBA2 if kind == "mamba2" else {})).to(DEVICE)
    stack = STACKS[kind](model)
    for row in ROWS:
        ids = torch.tensor([row], device=DEVICE)
        expected = model(ids, use_cache=False).logits[0, -1].float()
        state = stack.new_state(1)
        run = stack.begin(state, TokenBatch.of([row], [0], stack.device, prefill=True), "propagate")
        hidden = stack.embed(run)
        for layer in range(stack.n_layers):
            hidden = stack.layer(layer, hidden, run)
        torch.testing.assert_close(stack.unembed(hidden)[-1], expected, **TOLERANCE)


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 1.0])
def test_tokens_leave_where_they_leave_on_a_cpu(kind: str, skipped: str, threshold: float) -> None:
    policy = ExitPolicy((1, 2, 3), "top_prob", threshold)
    requests = [GenerateRequest(row, 12, never) for row in ROWS]
    tally = Tally(threshold)
    cpu, gpu = (
        generate(stack, requests, policy=policy, skipped_state=skipped) for stack in pair(kind)
    )
    for one, other in zip(cpu, gpu, strict=True):
        tally.same(one.trace, other.trace)
    assert tally.excluded <= 0.1 * tally.steps


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
def test_decoded_tokens_score_as_they_were_decoded(kind: str, skipped: str) -> None:
    _, stack = pair(kind)
    policy = ExitPolicy((1, 2, 3), "top_prob", 0.5)
    options = {"policy": policy, "skipped_state": skipped}
    answers = generate(stack, [GenerateRequest(row, 12, never) for row in ROWS], **options)
    requests = [
        ScoreRequest(row, answer.trace.tokens) for row, answer in zip(ROWS, answers, strict=True)
    ]
    tally = Tally(0.5)
    for answer, scored in zip(answers, score(stack, requests, **options), strict=True):
        tally.same(answer.trace, scored.trace)
    assert tally.excluded <= 0.1 * tally.steps


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_recompute_flushed_is_the_full_depth_state(kind: str) -> None:
    _, stack = pair(kind)
    policy = ExitPolicy((2,), "top_prob", 0.4)
    exact, state = prefill(stack, ROWS), prefill(stack, ROWS)
    everyone = list(range(len(ROWS)))
    for step in range(6):
        token_batch = TokenBatch.of([[step + 3]] * len(ROWS), everyone, stack.device)
        run_token_batch(stack, exact, token_batch, None)
        run_token_batch(
            stack, state, token_batch, Ignore(), policy=policy, skipped_state="recompute"
        )
    catch_up(stack, state, everyone)
    for wanted, found in zip(remembered(exact), remembered(state), strict=True):
        torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_full_mode_answers_as_hf_does(kind: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, kind, **(MAMBA2 if kind == "mamba2" else {}))
    options = {"pretrained": str(folder), "device": DEVICE, "dtype": "float32", "batch_size": 2}
    ours = (DynamaxMamba if kind == "mamba2" else DynamaxMistral)(mode="full", **options)
    prompts = ["Q: where?\nA:", "a", "The quick brown fox jumps over the lazy dog."]
    mine, theirs = (lm.generate_until(texts(prompts)) for lm in (ours, HFLM(**options)))
    assert mine == theirs


def test_uneven_strides_are_convolved() -> None:
    options = MAMBA2 | {"num_heads": 4, "head_dim": 32}  # 292 columns of in_proj
    model = random_model("mamba2", **options)
    requests = [GenerateRequest(row, 6, never) for row in ROWS]
    cpu, gpu = (
        generate(STACKS["mamba2"](one), requests)
        for one in (model, copy.deepcopy(model).to(DEVICE))
    )
    tally = Tally(0.0)
    for one, other in zip(cpu, gpu, strict=True):
        tally.same(one.trace, other.trace)


@pytest.mark.parametrize(("kind", "skipped"), SKIPPED)
@pytest.mark.parametrize(("threshold", "most"), [(0.3, 64), (0.3, 3), (0.9, 64), (1.0, 64)])
def test_recorded_steps_give_what_unrecorded_ones_give(
    kind: str, skipped: str, threshold: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catchup, "MOST_PENDING", most)
    policy = ExitPolicy((1, 2, 3), "top_prob", threshold)
    requests = [GenerateRequest(ROWS[n % 3], 5 + 9 * n % 30, never) for n in range(9)]
    options = {"policy": policy, "skipped_state": skipped, "flight": Flight(2, 4)}
    cpu, gpu = pair(kind)
    wanted = generate(cpu, requests, **options)
    assert gpu.recordable
    steps = RecordedSteps(gpu)
    assert gpu.record_steps(steps)
    tally = Tally(threshold)
    for _ in range(3):  # each over a state of its own
        found = generate(gpu, requests, **options)
        for one, other in zip(wanted, found, strict=True):
            tally.same(one.trace, other.trace)
    assert tally.excluded <= 0.1 * tally.steps
    assert steps.graphs > 0
    assert gpu.records_steps


def test_the_benchmark_runs(tmp_path: Path) -> None:
    parts = "decode,exits,scoring,prompts,scan"
    assert (
        bench(["--quick", "--parts", parts, "--device", DEVICE, "--output_path", str(tmp_path)])
        == 0
    )
    assert (tmp_path / "bench.json").exists()
