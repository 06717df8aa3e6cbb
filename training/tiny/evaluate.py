"""Measures a checkpoint: bits per byte, and what its exits do, on text it was not trained on.

    python -m training.tiny.evaluate --model_path dynamax_lm/decoders/tiny/mistral \
        --data_dir ../shared/data/train --output_path metrics.json

`held_out_*` are given the text before; `coqa_greedy_answers` are the model's own words.
"""

import argparse
import json
import math
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from dynamax_lm.common.outputs import write_json
from training.tiny.data import Corpus, load_corpus, qa_documents, story_documents
from training.tiny.models import exit_layers, hidden_states, logits_at
from training.tiny.ssd import CHUNK
from training.tiny.tokenizer import BOS, EOS, MAX_LENGTH, VOCAB_SIZE

THRESHOLD = 0.9
_ANSWER = re.compile(r"(?:\nA:|\nAnswer:)([^\n]*\n\n(?:Q:)?)")


@dataclass
class Sequence:
    """Token ids and which of them count.

    Attributes:
        ids: Token ids, the first `<s>`.
        counted: For every token after the first, whether it is measured.
        size: Bytes of text behind the counted tokens.
    """

    ids: list[int]
    counted: list[bool]
    size: int


class ExitStatistics:
    """Sums over tokens; `result` gives the numbers."""

    def __init__(self, layers: int) -> None:
        """Starts empty.

        Args:
            layers: Depth of the model.
        """
        self.layers = [*exit_layers(layers), layers]
        self.nats = dict.fromkeys(self.layers, 0.0)
        self.agree = dict.fromkeys(self.layers, 0)
        self.left = dict.fromkeys(self.layers, 0)
        self.left_agree = dict.fromkeys(self.layers, 0)
        self.tokens, self.size = 0, 0

    def add(self, logits: dict[int, torch.Tensor], targets: torch.Tensor, size: int) -> None:
        """Takes in one sequence.

        Args:
            logits: By layer, (tokens, vocabulary).
            targets: The tokens of the text.
            size: Its bytes.
        """
        full = logits[self.layers[-1]].argmax(-1)
        staying = torch.ones_like(targets, dtype=torch.bool)
        for layer in self.layers:
            scores = logits[layer].log_softmax(-1)
            top, token = scores.max(-1)
            self.nats[layer] -= scores.gather(1, targets[:, None]).sum().item()
            self.agree[layer] += (token == full).sum().item()
            sure = torch.ones_like(staying) if layer == self.layers[-1] else top.exp() >= THRESHOLD
            leaving = staying & sure
            self.left[layer] += leaving.sum().item()
            self.left_agree[layer] += (leaving & (token == full)).sum().item()
            staying &= ~sure
        self.tokens += len(targets)
        self.size += size

    def result(self, model: PreTrainedModel) -> dict[str, Any]:
        """The numbers, by layer and together."""
        share = {layer: self.left[layer] / self.tokens for layer in self.layers}
        return {
            "tokens": self.tokens,
            "bytes": self.size,
            "bits_per_byte": {
                layer: nats / math.log(2) / self.size for layer, nats in self.nats.items()
            },
            "agreement": {layer: n / self.tokens for layer, n in self.agree.items()},
            "at_threshold": {
                "confidence": "top_prob",
                "threshold": THRESHOLD,
                "share_leaving": share,
                "agreement_of_leaving": {
                    layer: self.left_agree[layer] / self.left[layer]
                    for layer in self.layers
                    if self.left[layer]
                },
                "agreement": sum(self.left_agree.values()) / self.tokens,
                "layers_used": sum(layer * part for layer, part in share.items()),
                "flops_saved_estimate": saved_estimate(model, share),
            },
        }


def saved_estimate(model: PreTrainedModel, share: dict[int, float]) -> float:
    """Net saving by parameter counts alone (no attention, no scan), under `propagate`."""
    run, skipped = zip(*map(_weights, model.base_model.layers), strict=True)
    head = model.lm_head.weight.numel()
    spent = 0.0
    for checks, (depth, part) in enumerate(share.items(), start=1):
        spent += part * (sum(run[:depth]) + checks * head + sum(skipped[depth:]))
    return 1 - spent / (sum(run) + head)


def _weights(block: nn.Module) -> tuple[int, int]:
    """A layer's parameters in matrices, and of those the ones that make its state."""
    sizes = {n: p.numel() for n, p in block.named_parameters() if n.endswith("proj.weight")}
    mixers = [module for module in block.modules() if hasattr(module, "in_proj")]
    state = sum(mixer.in_proj.weight[mixer.intermediate_size :].numel() for mixer in mixers)
    state += sum(
        n for name, n in sizes.items() if name.endswith(("k_proj.weight", "v_proj.weight"))
    )
    return sum(sizes.values()), state


@torch.inference_mode()
def exit_statistics(model: PreTrainedModel, sequences: Iterable[Sequence]) -> dict[str, Any]:
    """Reads every exit at every counted token of the sequences, at full depth's exact states."""
    statistics = ExitStatistics(model.config.num_hidden_layers)
    for sequence in sequences:
        ids = torch.tensor(sequence.ids)
        inputs = torch.nn.functional.pad(ids[:-1], (0, -(len(ids) - 1) % CHUNK))
        states = hidden_states(model, inputs[None], statistics.layers)
        places = torch.tensor(sequence.counted).nonzero()[:, 0]
        if len(places):
            logits = {n: logits_at(model, state[0, places]) for n, state in states.items()}
            statistics.add(logits, ids[1:][places], sequence.size)
    return statistics.result(model)


def held_out_documents(corpus: Corpus, seed: int = 0) -> list[str]:
    """The held-out records, each once, in the training formats."""
    rng = random.Random(seed)
    return story_documents(corpus, rng, repeats=1) + qa_documents(corpus, rng)


def whole(tokenizer: Tokenizer, text: str) -> Sequence:
    """A document of which every token counts."""
    ids = tokenizer(BOS + text, add_special_tokens=False)["input_ids"][:MAX_LENGTH]
    return Sequence(ids, [True] * (len(ids) - 1), len(tokenizer.decode(ids[1:]).encode()))


def answers(tokenizer: Tokenizer, text: str) -> Sequence:
    """A document of which the answers count, each up to what stops it."""
    spans = [match.span(1) for match in _ANSWER.finditer(text)]
    made = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=MAX_LENGTH)
    counted = [
        any(start <= first and last <= end for start, end in spans)
        for first, last in made["offset_mapping"][1:]
    ]
    size = sum(len(text[start:end].encode()) for start, end in spans)
    return Sequence(made["input_ids"], counted, size)


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel, tokenizer: Tokenizer, prompts: Iterable[str]
) -> list[Sequence]:
    """The model's own full-depth answers to `coqa` prompts, each up to its stop."""
    made = []
    for prompt in tqdm(list(prompts), desc="greedy answers", mininterval=10):
        given = tokenizer(prompt, return_tensors="pt")["input_ids"]
        if given.shape[1] > MAX_LENGTH - 48:
            continue
        ids = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=48,
            do_sample=False,
            stop_strings=["\nQ:"],
            tokenizer=tokenizer,
            pad_token_id=tokenizer.eos_token_id,
        )[0].tolist()
        start = given.shape[1]
        counted = [place >= start for place in range(1, len(ids))]
        made.append(Sequence(ids, counted, len(tokenizer.decode(ids[start:]).encode())))
    return made


def coqa_prompts(path: Path) -> list[str]:
    """The stock `coqa` prompts of a file of records in the hub's layout."""
    prompts = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        questions = record["questions"]["input_text"]
        replies = [f" {text}\n\n" for text in record["answers"]["input_text"][:-1]] + [""]
        turns = "".join(f"Q: {q}\n\nA:{a}" for q, a in zip(questions, replies, strict=True))
        prompts.append(f"{record['story']}\n\n{turns}")
    return prompts


class Bigram:
    """A Witten-Bell bigram model over tokens: what counting alone can do."""

    def __init__(self, documents: Iterable[list[int]]) -> None:
        """Counts.

        Args:
            documents: Token ids of the training text.
        """
        self.pairs = np.zeros((VOCAB_SIZE, VOCAB_SIZE))
        for ids in documents:
            np.add.at(self.pairs, (ids[:-1], ids[1:]), 1)
        total = self.pairs.sum(1, keepdims=True)
        kinds = (self.pairs > 0).sum(1, keepdims=True)
        unigram = (self.pairs.sum(0) + 1) / (self.pairs.sum() + VOCAB_SIZE)
        self.probability = (self.pairs + (kinds + 1) * unigram) / (total + kinds + 1)

    def bits_per_byte(self, sequences: Iterable[Sequence]) -> float:
        """On sequences of which every token counts."""
        bits, size = 0.0, 0
        for sequence in sequences:
            bits -= np.log2(self.probability[sequence.ids[:-1], sequence.ids[1:]]).sum()
            size += sequence.size
        return bits / size


def evaluate(model_path: Path, data_dir: Path, eval_dir: Path, prompts: int) -> dict[str, Any]:
    """Every number of the model card.

    Args:
        model_path: An exported folder.
        data_dir: Folder of the training records, 2 % of which are held out.
        eval_dir: Folder of the evaluation records, for `coqa` prompts.
        prompts: How many of those to answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    corpus, held_out = load_corpus(data_dir, eval_dir)
    documents = held_out_documents(held_out)
    sequences = [whole(tokenizer, text) for text in documents]
    seen = [f"{BOS}{text}{EOS}" for text in held_out_documents(corpus)]
    bigram = Bigram(tokenizer(seen, add_special_tokens=False, verbose=False)["input_ids"])
    asked = coqa_prompts(eval_dir / "coqa_validation.jsonl")[:prompts]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bigram_bits_per_byte": bigram.bits_per_byte(sequences),
        "held_out_text": exit_statistics(model, sequences),
        "held_out_answers": exit_statistics(model, [answers(tokenizer, t) for t in documents]),
        "coqa_greedy_answers": exit_statistics(model, greedy_answers(model, tokenizer, asked)),
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--eval_dir", type=Path, help="[data_dir/../eval]")
    parser.add_argument("--prompts", type=int, default=111, help="coqa prompts answered [111]")
    parser.add_argument("--output_path", type=Path, required=True)
    args = parser.parse_args(arguments)
    eval_dir = args.eval_dir or args.data_dir.parent / "eval"
    metrics = evaluate(args.model_path, args.data_dir, eval_dir, args.prompts)
    write_json(args.output_path, metrics, indent=1)


if __name__ == "__main__":
    main()
