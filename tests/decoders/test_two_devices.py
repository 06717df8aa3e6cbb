"""Layers on two devices give what they give on one, to the last bit; the devices are simulated.

The layers are placed by accelerate, as ``parallelize=True`` has transformers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import compute_module_sizes
from lm_eval.models.huggingface import HFLM
from torch.nn import functional as F  # noqa: N812

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.policy import ExitPolicy
from dynamax_lm.decoders import mamba2
from dynamax_lm.decoders.checkpoint import ATTENTION, MAMBA2
from dynamax_lm.decoders.family_stack import FamilyStack
from dynamax_lm.engine.flight import Flight
from dynamax_lm.engine.generate import generate
from dynamax_lm.engine.requests import GenerateRequest
from dynamax_lm.engine.score import ScoreRequest, score
from dynamax_lm.harness.responses import record_of
from dynamax_lm.heads.train.backbone import Backbone
from dynamax_lm.heads.train.windows import Batch, Window
from dynamax_lm.models.exit_model import DynamaxLM
from tests.builders import SKIPPED, STACKS, never, random_model
from tests.checkpoints import byte_tokenizer, save_checkpoint
from tests.decoders.simulated_devices import MixedDevicesError, simulated_devices
from tests.decoders.tiny_families import tiny_model
from tests.heads.builders import CLASSIFIERS, heads_of, maps_of
from tests.lm_requests import ours, pairs, texts

KINDS = ["mistral", "mamba2", "bamba"]
"""Attention, Mamba-2, and both in turn."""

HYBRID = ["propagate", "attention:copy_kv+mamba2:freeze", "recompute"]
EXITS = (1, 2, 3)
PROMPTS = [(1, 5, 9, 2, 2, 7), (2,), (8, 8, 3)]
ASKED = [GenerateRequest(row, new, never) for row, new in zip(PROMPTS, (6, 3, 5), strict=True)]
SCORED = [ScoreRequest(row, (3, 9, 9, 1)[:length]) for length, row in enumerate(PROMPTS, 2)]

ARCHITECTURES = {"mistral": ATTENTION, "mamba2": MAMBA2}

Devices = tuple[str, str]


@pytest.fixture
def devices() -> Iterator[Devices]:
    """Two, without gradients."""
    with torch.inference_mode(), simulated_devices() as both:
        yield both


def model_of(kind: str, **options: Any) -> Any:
    """A random model of four layers, frozen."""
    made = random_model(kind, 4, seed=3, **options) if kind in STACKS else tiny_model(kind, 3)
    return made.requires_grad_(False)


def device_map(model: Any, devices: Devices) -> dict[str, str]:
    """Of each module, the device that ``device_map="auto"`` gives it if one has too little room."""
    size = compute_module_sizes(model)[""]
    room = {0: size * 3 // 4, 1: 2 * size}
    split = infer_auto_device_map(model, room, no_split_module_classes=model._no_split_modules)
    placed = {name: devices[int(place)] for name, place in split.items()}
    assert set(placed.values()) == set(devices)
    return placed


def alternating(model: Any, devices: Devices) -> dict[str, str]:
    """Layers by turns, and the other modules by turns."""
    inside, prefix = dict(model.base_model.named_children()), model.base_model_prefix
    names = [f"{prefix}.layers.{index}" for index in range(len(inside.pop("layers")))]
    names += [*(f"{prefix}.{name}" for name in inside), "lm_head"]
    return {name: devices[place % 2] for place, name in enumerate(names)}


def placed(model: Any, where: dict[str, str]) -> Any:
    """``model`` with accelerate's hooks."""
    skip = model._skip_keys_device_placement
    main = next(iter(where.values()))
    return dispatch_model(model, device_map=where, main_device=main, skip_keys=skip)


def stack_of(kind: str, model: Any) -> Any:
    return STACKS.get(kind, FamilyStack)(model)


def both(
    kind: str, devices: Devices, where: Callable[..., dict[str, str]] = device_map, **options: Any
) -> tuple[Any, Any]:
    """The same decoder on one device and on two."""
    one, two = model_of(kind, **options), model_of(kind, **options)
    return stack_of(kind, one.to(devices[0])), stack_of(kind, placed(two, where(two, devices)))


def depths(answers: list[Any]) -> set[int]:
    return {used for answer in answers for used in answer.trace.layers_used}


def test_an_operation_refuses_what_devices_refuse(devices: Devices) -> None:
    first, second = (torch.ones(2, 2).to(device) for device in devices)
    index = torch.tensor([1], device=devices[1])
    cpu, scalar = torch.ones(2, 2), torch.tensor(2.0)
    refused: list[Callable[[], Any]] = [
        lambda: first + second,
        lambda: first.add_(second),
        lambda: first * cpu,
        lambda: cpu.add_(first),
        lambda: scalar.clone().add_(first[0, 0]),
        lambda: torch.cat([first, second]),
        lambda: torch.stack([first[0, 0], scalar]),
        lambda: F.linear(first, second),
        lambda: F.embedding(index, first),
        lambda: first[index],
        lambda: cpu[index],
        lambda: first.__setitem__(torch.tensor([0]), second[:1]),
        lambda: torch.where(first > 0, second, 0.0),
    ]
    for operation in refused:
        with pytest.raises(MixedDevicesError):
            operation()
    with pytest.raises(TypeError):
        first.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, device=devices[0], generator=torch.Generator())
    allowed = [first + scalar, first[torch.tensor([1])], first.copy_(second), second.to(first)]
    allowed += [torch.zeros(2, device=devices[0]), torch.tensor([1], device=devices[0])]
    allowed += [first.new_zeros(1), first.topk(1).values]
    assert {str(one.device) for one in allowed} == {devices[0]}
    assert first[0].tolist() == [1.0, 1.0]
    first[:1].mul_(3.0)
    assert first.cpu().tolist() == [[3.0, 3.0], [1.0, 1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_own_forward_is_the_same_there(kind: str, devices: Devices) -> None:
    one, two = model_of(kind).to(devices[0]), model_of(kind)
    ids = torch.tensor([PROMPTS[0]], device=devices[0])
    wanted = one(ids, use_cache=False).logits
    found = placed(two, device_map(two, devices))(ids, use_cache=False).logits
    assert torch.equal(found.cpu(), wanted.cpu())


STATES = [*(one for one in SKIPPED if one[0] in KINDS), *(("bamba", name) for name in HYBRID)]


@pytest.mark.parametrize(
    ("kind", "skipped", "measure"),
    [*((*one, "top_prob") for one in STATES), *((kind, "propagate", "oracle") for kind in KINDS)],
)
def test_exits_are_the_same(kind: str, skipped: str, measure: str, devices: Devices) -> None:
    one, two = both(kind, devices)
    exits = (2, 3) if "copy_kv+" in skipped else EXITS  # the lowest attention layer is the second
    options: dict[str, Any] = {
        "policy": ExitPolicy(exits, measure, 0.2),
        "skipped_state": skipped,
        "reference": True,
    }
    answers = generate(two, ASKED, **options)
    assert answers == generate(one, ASKED, **options)
    scored = score(two, SCORED, **options)
    assert scored == score(one, SCORED, **options)
    assert len(depths([*answers, *scored])) > 2


@pytest.mark.parametrize(
    ("where", "tied"), [(device_map, False), (device_map, True), (alternating, False)]
)
def test_other_placements_and_rows_in_flight(
    where: Callable[..., dict[str, str]], tied: bool, devices: Devices
) -> None:
    """A tied projection lies with the embedding, the norm before it elsewhere."""
    one, two = both("mistral", devices, where, tie_word_embeddings=tied)
    options: dict[str, Any] = {"policy": ExitPolicy(EXITS, "patience", 0.5), "reference": True}
    answers = generate(two, ASKED * 2, flight=Flight(2, 3), **options)
    assert answers == generate(one, ASKED * 2, flight=Flight(2, 3), **options)
    assert len(depths(answers)) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_lossless_generation_is_the_same(
    kind: str, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mamba2, "_AT_ONCE", 1)  # else more layers than one are summed at once
    one, two = both(kind, devices)
    policy = ExitPolicy((2,), "head", 0.4)
    answers = []
    for stack in (one, two):
        heads = heads_of(model_of(kind), (2,), 1, classifier="mamba", translator="low_rank")
        heads.to(stack.lm_head.weight.device)
        options: dict[str, Any] = {"policy": policy, "heads": heads, "reference": True}
        answers.append(generate(stack, ASKED, draft_length=3, **options))
    assert answers[0] == answers[1]
    rounds = [one for answer in answers[1] for one in answer.trace.rounds or ()]
    assert any(one.accepted < len(one.drafted) for one in rounds)
    assert all(one.trace.tokens == one.reference for one in answers[1])


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_trained_heads_are_the_same(kind: str, classifier: str, devices: Devices) -> None:
    """They are loaded where the vocabulary projection is."""
    options = {"classifier": classifier, "translator": "affine"}
    answers = []
    for stack in both(kind, devices):
        heads = heads_of(model_of(kind), EXITS, 2, **options).to(stack.lm_head.weight.device)
        given = {"policy": ExitPolicy(EXITS, "head", 0.7), "heads": heads}
        answers.append(generate(stack, ASKED, **given) + score(stack, SCORED, **given))
    assert answers[0] == answers[1]
    assert len(depths(answers[1])) > 1


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_training_reads_the_same(kind: str, devices: Devices) -> None:
    windows = [Window((7, 1, 9, 4, 4, 30), 2), Window((5, 2, 8), 0)]
    one, two = model_of(kind).to(devices[0]), model_of(kind)
    seen = []
    for model in (one, placed(two, device_map(two, devices))):
        backbone = Backbone(model, byte_tokenizer(), ARCHITECTURES[kind], "a backbone")
        hidden = backbone.read(Batch.of(windows), EXITS)[:-1]
        assert {str(states.device) for states in hidden} == {devices[0]}
        observed = backbone.observe(Batch.of(windows), EXITS)
        seen.append([*observed.hidden, observed.full_logits])
    for first, second in zip(*seen, strict=True):
        assert torch.equal(first.cpu(), second.cpu())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"min_new_tokens": 4, "until": ["a"]},
    {"forced_eos_token_id": 2, "repetition_penalty": 1.3},
    {"do_sample": True, "temperature": 1.5, "eta_cutoff": 0.01, "bad_words_ids": [[5], [6, 7]]},
]
QUESTIONS = ["Q: where?\nA:", "a", "The quick brown fox"]


def answers_of(lm: DynamaxLM, **options: Any) -> list[Any]:
    """Of a few requests: each response and its traces."""
    asked = texts(QUESTIONS, **{"max_gen_toks": 5} | options)
    scored = pairs(items=[("Q: 1+1?\nA:", " 2"), ("Q: 1+1?\nA:", " none of these")])
    responses: list[Any] = lm.generate_until(asked, disable_tqdm=True)
    responses += lm.loglikelihood(scored, disable_tqdm=True)
    return [(one, record_of(one)) for one in responses]


@pytest.mark.parametrize("kind", ["mistral", "mamba2"])
def test_parallelize_answers_as_one_device_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's own argument; only the map that it would make for GPUs is given."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # devices are simulated in one thread
    folder = save_checkpoint(tmp_path / "model", kind)
    given = {"exit_layers": "1+2+3", "threshold": 0.05}
    plain = ours(kind, folder, products="plain", **given)
    heads, maps = str(tmp_path / "heads"), str(tmp_path / "maps")
    heads_of(plain.model, EXITS, 2, translator="low_rank").save_pretrained(heads)
    maps_of(plain.model, 2, 3).save(Path(maps), "# Random maps\n")
    base = {**given, "confidence": "top_prob", "heads": "none", "mode": "exit"}
    base |= dict.fromkeys(("skipped_state", "prompt_exit", "prompt_maps"))
    settings: list[dict[str, Any]] = [
        {"heads": heads, "confidence": "head", "threshold": 0.6, "skipped_state": "recompute"},
        {"prompt_exit": 2, "prompt_maps": maps, "confidence": "saturation", "threshold": 0.5},
        {"mode": "lossless", "exit_layers": "2", "threshold": 0.0},
        {"mode": "full"},
    ]
    monkeypatch.setattr(mamba2, "_AT_ONCE", 1)
    found = []
    with simulated_devices() as devices:
        for where in ({"": devices[0]}, device_map(plain.model, devices)):
            arguments = {"device_map": where}
            monkeypatch.setattr(
                HFLM, "_get_accelerate_args", lambda self, *_, given=arguments, **__: dict(given)
            )
            lm = ours(kind, folder, parallelize=True, **given)
            assert {str(one.device) for one in lm.model.parameters()} == set(where.values())
            some = [answers_of(lm, **options) for options in OPTIONS]
            for own in settings:
                lm.change(**base | own)
                some.append(answers_of(lm))
            found.append(some)
        with pytest.raises(SettingError, match="placed by accelerate"):
            lm.change(**base | {"look": "rank:4"})
    assert found[0] == found[1]
    generated = len(QUESTIONS)
    for wanted, (text, _) in zip(answers_of(plain), found[1][0][:generated], strict=False):
        assert wanted[0] == text
    used = {
        used for _, record in found[1][0] for trace in record.traces for used in trace.layers_used
    }
    assert len(used) > 2
