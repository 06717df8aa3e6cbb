"""Models that do more than transformers' own layers are refused by name, not run in part."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.stack import TokenBatch
from dynamax_lm.decoders.altered import check_adapters, check_unaltered
from tests.builders import STACKS, make_config, random_model
from tests.decoders.tiny_families import tiny_model

KINDS = sorted(STACKS)


def inner(model: Any) -> tuple[str, Any]:
    decoder = getattr(model, "model", None) or model.backbone
    return ("self_attn" if hasattr(decoder.layers[1], "self_attn") else "mixer"), decoder


def nothing(*_: Any) -> None:
    """A hook."""


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_own_models_are_run(kind: str) -> None:
    STACKS[kind](random_model(kind))


@pytest.mark.parametrize("place", ["model", "decoder", "layer", "inner"])
@pytest.mark.parametrize("before", [True, False], ids=["pre-hook", "hook"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_on_what_is_not_called_is_refused(kind: str, before: bool, place: str) -> None:
    model = random_model(kind)
    name, decoder = inner(model)
    layer = decoder.layers[1]
    module = {"model": model, "decoder": decoder, "layer": layer, "inner": getattr(layer, name)}
    add = "register_forward_pre_hook" if before else "register_forward_hook"
    handle = getattr(module[place], add)(nothing)
    with pytest.raises(SettingError, match="has a forward hook"):
        STACKS[kind](model)
    handle.remove()
    STACKS[kind](model)


class OwnHook(ModelHook):
    """As somebody may write one for accelerate."""

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return output


@pytest.mark.parametrize("kind", KINDS)
def test_of_accelerates_hooks_those_that_place_tensors_are_run(kind: str) -> None:
    model = random_model(kind)
    layer = inner(model)[1].layers[1]
    add_hook_to_module(layer, AlignDevicesHook("cpu"))
    STACKS[kind](model)
    add_hook_to_module(layer, OwnHook(), append=True)
    with pytest.raises(SettingError, match=r"layers\.1 has a forward of its own"):
        STACKS[kind](model)


@pytest.mark.parametrize("kind", ["mistral", "llama"])
def test_a_hook_on_what_is_called_is_honoured(kind: str) -> None:
    """As the refusal's counterpart: modules that the stacks call run their hooks."""
    model = random_model(kind)
    plain = model(torch.tensor([[1, 5, 9]])).logits
    model.model.layers[2].mlp.register_forward_hook(lambda module, given, output: output * 2.0)
    changed = model(torch.tensor([[1, 5, 9]])).logits
    assert not torch.allclose(plain, changed)
    stack = STACKS[kind](model)
    batch = TokenBatch(torch.tensor([[1, 5, 9]]), (3,), (0,), prefill=True)
    hidden = run_all(stack, batch)
    torch.testing.assert_close(stack.unembed(hidden), changed[0])


def run_all(stack: Any, batch: TokenBatch) -> torch.Tensor:
    from dynamax_lm.engine.exit_probe import HiddenStates, probe_exits

    seen = HiddenStates(torch.arange(3), 3, 0)
    probe_exits(stack, stack.new_state(1), batch, (), [seen])
    (last,) = seen.hidden
    return last


class OwnForward(MistralForCausalLM):
    """As ``trust_remote_code`` brings them."""

    def forward(self, *given: Any, **named: Any) -> Any:
        return super().forward(*given, **named)


class SameForward(LlamaForCausalLM):
    """Only a name."""


class OwnAttention(nn.Module):
    """In place of ``self_attn``."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.own(*given, **named)


def test_a_class_with_its_own_forward_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"top module is a .*OwnForward"):
        check_unaltered(OwnForward(make_config("mistral")))
    check_unaltered(SameForward(make_config("llama")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_replaced_attention_or_mixer_is_refused_by_name(kind: str) -> None:
    model = random_model(kind)
    name, decoder = inner(model)
    setattr(decoder.layers[1], name, OwnAttention(getattr(decoder.layers[1], name)))
    with pytest.raises(SettingError, match=rf"layers\.1\.{name} is a .*OwnAttention"):
        check_unaltered(model)


def test_a_replaced_convolution_is_refused_by_name() -> None:
    model = random_model("mamba2")
    mixer = model.backbone.layers[0].mixer
    mixer.conv1d = OwnAttention(mixer.conv1d)
    with pytest.raises(SettingError, match=r"mixer\.conv1d is a .*OwnAttention"):
        check_unaltered(model)


@pytest.mark.parametrize("place", ["model", "layer"])
def test_a_forward_of_an_objects_own_is_refused(place: str) -> None:
    model = random_model("llama")
    module = {"model": model, "layer": model.model.layers[0]}[place]
    module.forward = lambda *given, **named: None
    with pytest.raises(SettingError, match="has a forward of its own"):
        check_unaltered(model)


@pytest.mark.parametrize(
    "place", ["model", "model.language_model", "model.language_model.layers.2"]
)
def test_hooks_inside_a_wrapper_are_refused(place: str) -> None:
    model = tiny_model("mistral3:mistral")
    check_unaltered(model)
    model.get_submodule(place).register_forward_hook(lambda *given: None)
    with pytest.raises(SettingError, match=f"model's {place} has a forward hook"):
        check_unaltered(model)


def test_a_compiled_model_is_refused_by_name() -> None:
    compiled: Any = torch.compile(random_model("llama"), backend="eager")
    with pytest.raises(SettingError, match="top module is compiled"):
        check_unaltered(compiled)


def adapted(kind: str, *, mamba: bool = False, **more: Any) -> Any:
    config = SimpleNamespace(peft_type=SimpleNamespace(value=kind), **more)
    model = SimpleNamespace(model_type="mamba2" if mamba else "mistral")
    return SimpleNamespace(peft_config={"default": config}, config=model)


@pytest.mark.parametrize("kind", ["LORA", "IA3", "LOHA", "VERA", "BOFT", "TRAINABLE_TOKENS"])
def test_adapters_of_linear_layers_are_run(kind: str) -> None:
    check_adapters(adapted(kind))
    check_adapters(adapted(kind, mamba=True))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (adapted("PROMPT_TUNING", is_prompt_learning=True), "PROMPT_TUNING"),
        (adapted("PREFIX_TUNING", is_prompt_learning=True), "PREFIX_TUNING"),
        (adapted("P_TUNING", is_prompt_learning=True), "P_TUNING"),
        (adapted("CPT", is_prompt_learning=True), "CPT"),
        (adapted("CARTRIDGE"), "CARTRIDGE"),
        (adapted("ADAPTION_PROMPT"), "ADAPTION_PROMPT"),
        (adapted("SOMETHING_NEW"), "SOMETHING_NEW"),
        (adapted("LORA", alora_invocation_tokens=[1, 2]), "activated LoRA"),
        (adapted("LORA", layer_replication=[(0, 2), (1, 3)]), "layer_replication"),
        (adapted("LORA", mamba=True, lora_bias=True), "lora_bias"),
    ],
)
def test_other_adapters_are_refused_by_kind(model: Any, told: str) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        check_adapters(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_llama_with_a_stray_window_attends_to_everything_as_in_transformers(
    implementation: str,
) -> None:
    model = random_model("llama", sliding_window=2, attn_implementation=implementation)
    ids = torch.tensor([[1, 5, 9, 2, 7, 4, 4, 3]])
    stack = STACKS["llama"](model)
    assert stack.costs.window is None
    from dynamax_lm.engine.exit_probe import HiddenStates, probe_exits

    seen = HiddenStates(torch.arange(8), 8, 0)
    probe_exits(stack, stack.new_state(1), TokenBatch(ids, (8,), (0,), prefill=True), (), [seen])
    torch.testing.assert_close(stack.unembed(seen.hidden[0]), model(ids).logits[0])
