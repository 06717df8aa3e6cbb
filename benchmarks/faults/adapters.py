"""``python -m benchmarks.faults.adapters``: adapters of PEFT's own package, run or refused.

Each kind of adapter, with random weights, is put on a small random checkpoint and evaluated by
lm-eval's ``hf`` model and by ours at full depth. The answers are equal, or one line refuses the
adapter. Needs ``pip install peft``, which is not among this package's requirements.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.markdown import markdown_table

_LINEAR = {"mistral": ["q_proj", "v_proj", "down_proj"], "mamba2": ["in_proj"]}
_EMBEDDING = {"mistral": "embed_tokens", "mamba2": "embeddings"}
_NORM = {"mistral": "input_layernorm", "mamba2": "norm"}
_PAIRS = (("Hello there", " my friend"), ("a", " b"), ("The quick brown fox jumps", " over it"))
_PROMPTS = ("Hello there", "abc", "The quick brown fox")
_CLOSE = 1e-3
_NOISE = 0.1

Make = Callable[[], Any]


def main() -> None:
    """Try all kinds on both architectures; status 1 if an answer differs or anything else fails."""
    parser = argparse.ArgumentParser("python -m benchmarks.faults.adapters", description=__doc__)
    parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in _LINEAR:
            for name, make in adapters(kind):
                place = Path(folder) / kind
                rows.append([kind, name, tried(kind, make, place, place / name)])
                sys.stderr.write(f"{' | '.join(rows[-1])}\n")
    print(markdown_table(["architecture", "adapter", "outcome"], rows))
    outcomes = Counter(row[2].partition(":")[0] for row in rows)
    print(f"\n{dict(outcomes)}")
    sys.exit(bool(set(outcomes) - {"equal", "refused", "not made"}))


def adapters(kind: str) -> Iterator[tuple[str, Make]]:
    """Names and makers of PEFT's configurations for an architecture."""
    import peft

    linear = {"target_modules": _LINEAR[kind], "task_type": "CAUSAL_LM"}
    embedding, prompts = _EMBEDDING[kind], {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    lora = {**linear, "r": 4, "init_lora_weights": False}
    own: dict[str, tuple[str, dict[str, Any]]] = {
        "LoRA": ("LoraConfig", lora),
        "LoRA with bias": ("LoraConfig", {**lora, "lora_bias": True}),
        "DoRA": ("LoraConfig", {**lora, "use_dora": True}),
        "rsLoRA": ("LoraConfig", {**lora, "use_rslora": True}),
        "LoRA of the embedding": (
            "LoraConfig",
            {**lora, "target_modules": [*_LINEAR[kind], embedding]},
        ),
        "LoRA with a head": ("LoraConfig", {**lora, "modules_to_save": ["lm_head"]}),
        "LoRA with tokens": ("LoraConfig", {**lora, "trainable_token_indices": [40, 41]}),
        "activated LoRA": ("LoraConfig", {**lora, "alora_invocation_tokens": [40, 41]}),
        "replicated layers": ("LoraConfig", {**lora, "layer_replication": [[0, 3], [2, 4]]}),
        "AdaLoRA": ("AdaLoraConfig", {**lora, "total_step": 10}),
        "IA3": ("IA3Config", {**linear, "feedforward_modules": _LINEAR[kind][-1:]}),
        "LoHa": ("LoHaConfig", {**linear, "r": 4}),
        "LoKr": ("LoKrConfig", {**linear, "r": 4}),
        "OFT": ("OFTConfig", {**linear, "oft_block_size": 4}),
        "BOFT": ("BOFTConfig", {**linear, "boft_block_size": 4}),
        "VeRA": ("VeraConfig", {**linear, "r": 4}),
        "FourierFT": ("FourierFTConfig", {**linear, "n_frequency": 10}),
        "HRA": ("HRAConfig", {**linear, "r": 4}),
        "VB-LoRA": (
            "VBLoRAConfig",
            {**linear, "r": 4, "vector_length": 4, "num_vectors": 16, "topk": 2},
        ),
        "LN tuning": ("LNTuningConfig", {**linear, "target_modules": [_NORM[kind]]}),
        "MiSS": ("MissConfig", {**linear, "r": 4}),
        "C3A": ("C3AConfig", {**linear, "block_size": 4}),
        "SHiRA": ("ShiraConfig", {**linear, "r": 2}),
        "RandLoRA": ("RandLoraConfig", {**linear, "r": 2}),
        "RoAd": ("RoadConfig", {**linear, "group_size": 4}),
        "GraLoRA": ("GraloraConfig", linear),
        "DeLoRA": ("DeloraConfig", linear),
        "OSF": ("OSFConfig", linear),
        "WaveFT": ("WaveFTConfig", {**linear, "n_frequency": 10}),
        "trainable tokens": (
            "TrainableTokensConfig",
            {"task_type": "CAUSAL_LM", "target_modules": [embedding], "token_indices": [40, 41]},
        ),
        "Poly": ("PolyConfig", {**linear, "r": 4, "n_tasks": 1, "n_skills": 1, "n_splits": 1}),
        "prompt tuning": ("PromptTuningConfig", prompts),
        "multitask prompt tuning": ("MultitaskPromptTuningConfig", prompts),
        "P-tuning": ("PromptEncoderConfig", {**prompts, "encoder_hidden_size": 8}),
        "prefix tuning": ("PrefixTuningConfig", prompts),
        "CPT": (
            "CPTConfig",
            {
                "task_type": "CAUSAL_LM",
                "cpt_token_ids": [40, 41, 42],
                "cpt_mask": [1, 1, 1],
                "cpt_tokens_type_mask": [1, 1, 1],
            },
        ),
        "adaption prompt": (
            "AdaptionPromptConfig",
            {"task_type": "CAUSAL_LM", "adapter_len": 3, "adapter_layers": 2},
        ),
        "cartridge": ("CartridgeConfig", prompts),
    }
    for name, (maker, options) in own.items():
        yield name, lambda maker=maker, options=options: getattr(peft, maker)(**options)


def tried(kind: str, make: Make, base: Path, folder: Path) -> str:
    """What became of one adapter: equal, refused, different, not made, or failed.

    Args:
        kind: of the checkpoint.
        make: makes the configuration.
        base: folder of the checkpoint, made if it is not there.
        folder: of the adapter.
    """
    from lm_eval.models.huggingface import HFLM

    from dynamax_lm.models.lm import DynamaxMamba, DynamaxMistral
    from tests.checkpoints import save_checkpoint

    if not base.is_dir():
        save_checkpoint(base, kind)
    try:
        _save(make, base, folder)
    except (AttributeError, TypeError, ValueError) as error:  # PEFT's own refusals
        return f"not made: {str(error).splitlines()[0][:60]}"
    options: dict[str, Any] = {"pretrained": str(base), "peft": str(folder), "device": "cpu"}
    options |= {"dtype": "float32", "batch_size": 2}
    model = DynamaxMistral if kind == "mistral" else DynamaxMamba
    try:
        ours = _answers(model(**options, mode="full"))
    except SettingError as error:
        return f"refused: {str(error).partition(';')[0]}"
    theirs = _answers(HFLM(**options))
    gap = max(abs(a - b) for a, b in zip(ours[0], theirs[0], strict=True))
    return "equal" if gap < _CLOSE and ours[1] == theirs[1] else f"different: by {gap:.2g}"


def _save(make: Make, base: Path, folder: Path) -> None:
    """An adapter with noise on whatever it trains."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = make()
    adapted: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(_NOISE * torch.randn_like(parameter))
    adapted.save_pretrained(folder)


def _answers(lm: Any) -> tuple[list[float], list[str]]:
    """Log-likelihoods and texts."""
    from lm_eval.api.instance import Instance

    def asked(kind: str, arguments: Any) -> Any:
        return [
            Instance(request_type=kind, doc={}, arguments=one, idx=number)  # type: ignore[arg-type]
            for number, one in enumerate(arguments)
        ]

    until = {"until": ["\n\n\n"], "max_gen_toks": 6}
    scores = lm.loglikelihood(asked("loglikelihood", _PAIRS), disable_tqdm=True)
    texts = lm.generate_until(
        asked("generate_until", [(prompt, dict(until)) for prompt in _PROMPTS]), disable_tqdm=True
    )
    return [float(one[0]) for one in scores], [str(one) for one in texts]


if __name__ == "__main__":
    main()
