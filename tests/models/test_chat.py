"""Chat templates: lm-eval's ``hf`` and ours ask the same, and full depth answers the same.

So does lossless decoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamax_lm.sweep.__main__ import main
from tests.checkpoints import byte_tokenizer, save_checkpoint
from tests.quick import results_in, run_lm_eval

pytestmark = pytest.mark.usefixtures("toys_alone")

TOYS = str(Path(__file__).parents[1] / "harness" / "toys")
MODELS = {"mistral": "dynamax-mistral", "mamba2": "dynamax-mamba"}
TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<{{ message['role'] }}>{{ message['content'] }}"
    "{% if not loop.last or add_generation_prompt %}</{{ message['role'] }}>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHATS: dict[str, tuple[str, ...]] = {
    "turns": ("--apply_chat_template",),
    "turns-and-system": ("--apply_chat_template", "--system_instruction", "Be brief."),
    "one-message": ("--apply_chat_template", "--fewshot_as_multiturn", "false"),
    "one-message-and-system": (
        *("--apply_chat_template", "--fewshot_as_multiturn", "false"),
        *("--system_instruction", "Be brief."),
    ),
    "system-alone": ("--system_instruction", "Be brief."),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models with room for a chat, and a template whose text brings its own <s>."""
    folders = {}
    for kind in MODELS:
        room = {} if kind == "mamba2" else {"max_position_embeddings": 512}
        folders[kind] = save_checkpoint(tmp_path_factory.mktemp(kind), kind, **room)
        tokenizer = byte_tokenizer(context=512)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(folders[kind])
    return folders


def options(checkpoint: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--model_args", f"pretrained={checkpoint},dtype=float32", "--device", "cpu"),
        *("--tasks", "toy_gen,toy_mc", "--include_path", TOYS, "--num_fewshot", "2"),
        *("--limit", "3", "--gen_kwargs", "max_gen_toks=8", "--output_path", str(output), *more),
    ]


def lm_eval(
    patch: pytest.MonkeyPatch, model: str, checkpoint: Path, output: Path, *more: str
) -> Path:
    """``lm_eval run`` and the folder that it wrote."""
    run_lm_eval(patch, "--model", model, "--log_samples", *options(checkpoint, output, *more))
    (folder,) = output.iterdir()
    return folder


FullDepth = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], Path]]:
    """Where full-depth runs are, and those that have been made, by kind and chat."""
    return tmp_path_factory.mktemp("full"), {}


@pytest.fixture
def full_depth(
    kept: tuple[Path, dict[tuple[str, str], Path]],
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> FullDepth:
    """The folder of the full-depth run of a kind and a chat, made once."""
    home, made = kept

    def folder(kind: str, chat: str) -> Path:
        if (kind, chat) not in made:
            more = (*CHATS[chat], "--model_args", "mode=full", "--batch_size", "3")
            output = home / kind / chat
            made[kind, chat] = lm_eval(monkeypatch, MODELS[kind], checkpoints[kind], output, *more)
        return made[kind, chat]

    return folder


def samples_in(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"samples_{task}_20*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def prompts_in(folder: Path) -> list[str]:
    samples = [one for task in ("toy_gen", "toy_mc") for one in samples_in(folder, task)]
    return [given["arg_0"] for one in samples for given in one["arguments"].values()]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("chat", CHATS)
def test_full_depth_is_asked_and_answers_as_hf(
    chat: str,
    kind: str,
    checkpoints: dict[str, Path],
    full_depth: FullDepth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hf = lm_eval(monkeypatch, "hf", checkpoints[kind], tmp_path / "hf", *CHATS[chat])
    ours = full_depth(kind, chat)
    assert results_in(ours)["config"]["early_exit"]["settings"]["mode"] == "full"
    assert prompts_in(ours) == prompts_in(hf)
    for task in ("toy_gen", "toy_mc"):
        for one, other in zip(samples_in(ours, task), samples_in(hf, task), strict=True):
            assert {k: one[k] for k in other if k.endswith("_hash")} == {
                k: v for k, v in other.items() if k.endswith("_hash")
            }
            if task == "toy_gen":
                assert one["resps"] == other["resps"]
            else:
                assert likelihoods(one) == pytest.approx(likelihoods(other), rel=1e-5, abs=1e-4)
    told = ("chat_template", "chat_template_sha", "fewshot_as_multiturn", "system_instruction")
    assert [results_in(ours)[name] for name in told] == [results_in(hf)[name] for name in told]


def likelihoods(sample: dict[str, Any]) -> list[float]:
    return [float(pair[0][0]) for pair in sample["resps"]]


@pytest.mark.parametrize("kind", MODELS)
def test_lossless_answers_to_a_chat_are_full_depths(
    kind: str,
    checkpoints: dict[str, Path],
    full_depth: FullDepth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = full_depth(kind, "turns-and-system")
    drafting = "mode=lossless,exit_layers=3,threshold=0.02"
    more = (*CHATS["turns-and-system"], "--model_args", drafting, "--batch_size", "3")
    ours = lm_eval(monkeypatch, MODELS[kind], checkpoints[kind], tmp_path, *more)
    assert prompts_in(ours) == prompts_in(full)
    for task in ("toy_gen", "toy_mc"):
        found, expected = (
            [(one["resps"], one["filtered_resps"]) for one in samples_in(folder, task)]
            for folder in (ours, full)
        )
        assert found == expected
    assert results_in(ours)["config"]["early_exit"]["drafts"]["accepted"] > 0


def test_the_chats_are_different_ones(full_depth: FullDepth) -> None:
    """What the comparison above compares."""
    first = {chat: prompts_in(full_depth("mistral", chat))[0] for chat in CHATS}
    assert len(set(first.values())) == len(CHATS)
    assert first["turns"].count("<user>") == 3
    assert first["turns"].count("<assistant>") == 3
    assert first["one-message"].count("<user>") == 1
    assert first["one-message-and-system"].startswith("<s><system>Be brief.</system><user>")
    assert first["system-alone"].startswith("Be brief.")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("chat", ["turns", "one-message-and-system"])
def test_exits_and_a_sweeps_point_take_the_chat(
    chat: str,
    kind: str,
    checkpoints: dict[str, Path],
    full_depth: FullDepth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = CHATS[chat]
    grid = (*options(checkpoints[kind], tmp_path / "sweep", *more), "--thresholds", "0.02,0.5")
    alone = ("--tokens_at_once", "0")  # equal to a separate run to the last bit
    main(["--model", MODELS[kind], *grid, *alone])
    depths = set()
    for threshold in ("0.02", "0.5"):
        separate = lm_eval(
            monkeypatch,
            MODELS[kind],
            checkpoints[kind],
            tmp_path / threshold,
            *more,
            *("--model_args", f"threshold={threshold}"),
        )
        (point,) = (tmp_path / "sweep").glob(f"*/threshold={threshold}")
        assert prompts_in(point) == prompts_in(separate) == prompts_in(full_depth(kind, chat))
        found, expected = results_in(point), results_in(separate)
        assert found["results"] == expected["results"]
        for name in ("chat_template", "fewshot_as_multiturn", "system_instruction"):
            assert found[name] == expected[name]
        for task in ("toy_gen", "toy_mc"):
            assert samples_in(point, task) == samples_in(separate, task)
            depths |= {
                one["layers_used"] for one in samples_in(point, task) if "layers_used" in one
            }
    assert len(depths) > 1


def test_another_way_to_show_examples_is_another_sweep(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point asked in turns is not taken for one asked in a single message."""
    for chat, how in (("turns", "run"), ("turns", "finished before"), ("one-message", "run")):
        grid = options(checkpoints["mistral"], tmp_path, *CHATS[chat], "--thresholds", "0.5")
        main(["--model", MODELS["mistral"], *grid])
        assert how in capsys.readouterr().err
