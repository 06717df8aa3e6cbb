"""Trains one of the embedded models on a CPU; can be killed and started again at any time.

    python -m training.tiny.train --model mistral --data_dir ../shared/data/train \
        --output_path ../runs/tiny/mistral

The learning rate stays constant after a warm-up. `--decay_steps N` anneals it to zero over the
next N steps and then stops: run it on a copy of the folder to branch off.
"""

import argparse
import json
import os
import random
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dynamax_lm.common.outputs import replacing
from training.tiny.data import (
    Corpus,
    Encode,
    answer_tokens,
    batches,
    epoch_rows,
    load_corpus,
    qa_documents,
    story_documents,
)
from training.tiny.losses import ExitLoss
from training.tiny.models import NAMES, build
from training.tiny.precision import NAMES as PRECISIONS
from training.tiny.precision import fastest, forward_in, step_in
from training.tiny.tokenizer import BOS, EOS, train_tokenizer

WARMUP_STEPS = 100
SAVE_EVERY, LOG_EVERY = 200, 20
CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class Settings:
    """Settings of a run, except its paths.

    Attributes:
        model: one of `models.NAMES`.
        seed: Determines the initial weights and the order and formats of the text.
        lr: Learning rate of the matrices (Muon) and of all else (AdamW).
        tokens_per_batch: Tokens in a step.
        average: Decay per step of the running average of the weights, which is what is exported
            while the learning rate is constant.
        distil: See `ExitLoss`.
        first: See `ExitLoss`.
        later: See `ExitLoss`.
        answers: See `ExitLoss`.
        precision: Number format of the matrix products, one of `precision.NAMES`.
    """

    model: str
    seed: int = 0
    lr: float = 3e-3
    tokens_per_batch: int = 4096
    average: float = 0.995
    distil: float = 0.0
    first: float = 1.0
    later: float = 0.5
    answers: float = 1.0
    precision: str = "float32"


class Run:
    """A model in training with all that a checkpoint holds."""

    def __init__(
        self, settings: Settings, corpus: Corpus, encode: Encode, pieces: list[str]
    ) -> None:
        """Starts at step 0.

        Args:
            settings: Of the run.
            corpus: The training split.
            encode: Documents to token ids.
            pieces: The text of every token.
        """
        torch.manual_seed(settings.seed)
        self.settings, self.corpus, self.encode, self.pieces = settings, corpus, encode, pieces
        self.model = build(settings.model).train()
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.optimizers = _optimizers(self.model, settings.lr)
        self.loss = ExitLoss(settings.first, settings.later, settings.distil, settings.answers)
        self.step, self.tokens, self.epoch, self.cursor = 0, 0, 0, 0
        self.decay_start: int | None = None
        self._batches: list | None = None

    def state(self) -> dict:
        """Everything that a resumed run needs to equal an uninterrupted one."""
        return {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "epoch": self.epoch,
            "cursor": self.cursor,
            "decay_start": self.decay_start,
        }

    def load(self, state: dict) -> None:
        """Takes over a checkpoint's `state()`."""
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens = state["step"], state["tokens"]
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        self.decay_start = state["decay_start"]
        self._batches = None

    def lr_scale(self, decay_steps: int | None) -> float:
        """The learning rate at this step, as a share of its constant value."""
        warmed = min(1.0, (self.step + 1) / WARMUP_STEPS)
        if decay_steps is None or self.decay_start is None:
            return warmed
        return warmed * max(0.0, 1 - (self.step - self.decay_start) / decay_steps)

    def next_batch(self) -> torch.Tensor:
        """The batch at the cursor, which it moves."""
        seed = self.settings.seed
        if self._batches is None:
            rows = epoch_rows(self.corpus, self.encode, seed, self.epoch)
            order = random.Random(f"order:{seed}:{self.epoch}")
            self._batches = batches(rows, self.settings.tokens_per_batch, order)
        batch = torch.from_numpy(self._batches[self.cursor])
        self.cursor += 1
        if self.cursor == len(self._batches):
            self.epoch, self.cursor, self._batches = self.epoch + 1, 0, None
        return batch

    def train_step(self, lr_scale: float) -> dict[int, float]:
        """One step of the optimisers; returns the cross-entropy by layer."""
        ids = self.next_batch()
        rng = random.Random(f"exits:{self.settings.seed}:{self.step}")
        answers = torch.tensor([answer_tokens(row, self.pieces) for row in ids.tolist()])
        with forward_in(self.settings.precision):
            loss, entropies = self.loss(self.model, ids, answers, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.settings.lr * lr_scale
            with step_in(self.settings.precision):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += ids[:, 1:].numel()
        # An average of few steps decays faster, so that the random start never dominates it; in
        # the decay the average follows the weights, which no longer jitter.
        keep = min(self.settings.average, self.step / (self.step + 10)) * min(1.0, lr_scale)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter, 1 - keep)
        return entropies


def _optimizers(model: PreTrainedModel, lr: float) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if name.endswith("proj.weight") else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def save_whole(state: dict, path: Path) -> None:
    """Writes a checkpoint that is there entirely or not at all."""
    with replacing(path) as partial:
        torch.save(state, partial)


def encoder(tokenizer: PreTrainedTokenizerFast) -> Encode:
    """Documents to ids, each between `<s>` and `</s>`."""

    def encode(documents: list[str]) -> list[list[int]]:
        marked = [f"{BOS}{text}{EOS}" for text in documents]
        return tokenizer(marked, add_special_tokens=False, verbose=False)["input_ids"]

    return encode


def tokenizer_for(output_path: Path, corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
    """The run's tokenizer, trained at the first start; the same for all models."""
    folder = output_path / "tokenizer"
    if not folder.exists():
        rng = random.Random(seed)
        texts = story_documents(corpus, rng, repeats=2) + qa_documents(corpus, rng)
        with replacing(folder) as partial:
            train_tokenizer(texts).save_pretrained(partial)
    return AutoTokenizer.from_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=NAMES, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--eval_dir", type=Path, help="records to keep out [data_dir/../eval]")
    parser.add_argument("--output_path", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_steps", type=int, default=1_000_000)
    parser.add_argument("--decay_steps", type=int, help="anneal over this many steps, then stop")
    shown = ("lr", "distil", "first", "later", "answers")
    for name in shown:
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=float, default=default, help=f"[{default}]")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of products [the run's; the faster one here]"
    )
    args = parser.parse_args(arguments)

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    args.output_path.mkdir(parents=True, exist_ok=True)
    corpus, _ = load_corpus(args.data_dir, args.eval_dir or args.data_dir.parent / "eval")
    tokenizer = tokenizer_for(args.output_path, corpus, args.seed)
    checkpoint = args.output_path / CHECKPOINT
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    precision = args.precision or (state or {}).get("settings", {}).get("precision") or fastest()
    given = {name: getattr(args, name) for name in shown}
    settings = Settings(args.model, args.seed, precision=precision, **given)
    pieces = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    run = Run(settings, corpus, encoder(tokenizer), pieces)
    if state is not None:
        run.load(state)
    last_step = args.max_steps
    if args.decay_steps is not None:
        run.decay_start = run.step if run.decay_start is None else run.decay_start
        last_step = run.decay_start + args.decay_steps
    _train(run, last_step, args.decay_steps, checkpoint)


def _train(run: Run, last_step: int, decay_steps: int | None, checkpoint: Path) -> None:
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stopping.append(received))
    log = checkpoint.with_name(LOG)
    sums: dict[int, list[float]] = {}
    started, tokens_then = time.monotonic(), run.tokens
    bar = tqdm(total=last_step, initial=run.step, unit="step", mininterval=10)
    while run.step < last_step and not stopping:
        scale = run.lr_scale(decay_steps)
        for layer, entropy in run.train_step(scale).items():
            sums.setdefault(layer, []).append(entropy)
        bar.update()
        if run.step % LOG_EVERY == 0:
            now = time.monotonic()
            speed = (run.tokens - tokens_then) / (now - started)
            row = {
                "step": run.step,
                "tokens": run.tokens,
                "epoch": run.epoch,
                "lr": run.settings.lr * scale,
                "tokens_per_s": round(speed),
                "loss": {str(k): round(sum(v) / len(v), 4) for k, v in sorted(sums.items())},
            }
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            bar.set_postfix(loss=row["loss"], tokens_per_s=row["tokens_per_s"])
            sums, started, tokens_then = {}, now, run.tokens
        if run.step % SAVE_EVERY == 0:
            save_whole(run.state(), checkpoint)
    save_whole(run.state(), checkpoint)


if __name__ == "__main__":
    main()
