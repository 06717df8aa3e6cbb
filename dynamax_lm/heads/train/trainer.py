"""The training loop: steps, log and checkpoints of an interruptible run.

A checkpoint is one file, replaced when the next is complete, and is read as plain tensors and
values (``weights_only``). ``accelerate``'s ``save_state`` is not used: it writes the model as
safetensors, but pickles the optimiser (``optimizer.bin``) and the random states, into a folder of
files that an interrupt can leave incomplete; and it would save no random state that is needed here,
since each step has a seed of its own.
"""

from __future__ import annotations

import json
import math
import operator
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from dynamax_lm.common.durations import in_words
from dynamax_lm.common.errors import SettingError, first_line
from dynamax_lm.common.outputs import replacing, write_text
from dynamax_lm.heads.train.hidden_state_cache import Observer
from dynamax_lm.heads.train.objective import Losses, Objective
from dynamax_lm.heads.train.schedule import Schedule
from dynamax_lm.heads.train.seal import sealed, unsealed
from dynamax_lm.heads.train.stopping import Stopped, stop_signals
from dynamax_lm.heads.train.windows import POOL, Batch, BatchStream

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
_CLIP = 1.0
_TIMED = POOL
"""Steps after which the time of a run is estimated: a pool's batches differ in length."""


class Trainer:
    """A training run on the hidden states of one backbone.

    Args:
        objective: heads and losses.
        observer: reads batches from the frozen backbone.
        stream: batches.
        schedule: steps and rates.
        accelerator: device, precision and processes.
        folder: the run's.
        settings: those that must be equal in a resumed run, as plain values.
    """

    def __init__(
        self,
        objective: Objective,
        observer: Observer,
        stream: BatchStream,
        schedule: Schedule,
        accelerator: Accelerator,
        folder: Path,
        settings: dict[str, Any],
    ) -> None:
        self._observe, self._stream, self._schedule = observer, stream, schedule
        self._accelerator, self._folder = accelerator, folder
        self._settings = settings | asdict(schedule)
        self.heads = objective.heads
        optimizer = torch.optim.AdamW(_groups(objective, schedule), betas=(0.9, 0.98))
        self._objective, self._optimizer = accelerator.prepare(objective, optimizer)
        self.step, self.tokens = 0, 0
        self._saved: int | None = None
        self._sums: list[Losses] = []

    @property
    def different_tokens(self) -> int:
        """Tokens of one pass over the data, or those seen so far if no pass is complete."""
        return round(self.tokens / max(1, self._stream.epoch))

    # -- running --------------------------------------------------------------------------------

    def train(self) -> None:
        """Run to the last step, from the checkpoint if there is one.

        Raises:
            SettingError: a loss that is not finite, a full disk, or another run's checkpoint.
            Stopped: by a signal; the checkpoint is written.
        """
        self._resume()
        main = self._accelerator.is_main_process
        bar = tqdm(
            total=self._schedule.max_steps,
            initial=self.step,
            desc="training heads",
            unit="step",
            disable=not main,
        )
        with bar, stop_signals() as received:
            begun, first = time.perf_counter(), self.step
            while self.step < self._schedule.max_steps:
                losses = self._one_step()
                bar.update()
                left = self._schedule.max_steps - self.step
                if self.step - first == _TIMED and left and main:
                    expected = left * (time.perf_counter() - begun) / _TIMED
                    later = ", less once --cache holds all text" if self._observe.caches else ""
                    bar.write(
                        f"Training heads for {left} more steps: {in_words(expected)}{later}",
                        file=sys.stderr,
                    )
                if self.step % self._schedule.log_every == 0:
                    bar.set_postfix(loss=f"{self._write_log():.4f}")
                if self.step % self._schedule.save_every == 0 or received:
                    self._save()
                if received:
                    raise Stopped(received[0], self.step, self._folder)
                del losses
            if self._saved != self.step:
                self._save()  # later steps, calibration and cards, may fail too

    def _one_step(self) -> Losses:
        translator_lr, classifier_lr = self._schedule.stage(self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = translator_lr if group["translators"] else classifier_lr
        batch = self._next_batch()
        with self._writing():
            seen = self._observe(batch)
        seed = hash((self._schedule.seed, self.step, self._accelerator.process_index))
        with self._accelerator.autocast():
            losses: Losses = self._objective(
                seen, translator_lr > 0, classifier_lr > 0, seed % 2**31
            )
        self._check_finite("loss", losses.total)
        if losses.total.requires_grad:
            self._accelerator.backward(losses.total)
            norm = self._accelerator.clip_grad_norm_(self._objective.parameters(), _CLIP)
            if norm is not None and self._accelerator.scaler is None:  # fp16's skips such steps
                self._check_finite("gradient's norm", norm)
            self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.tokens += int(seen.real.sum()) * self._accelerator.num_processes
        self._sums.append(Losses(*(part.detach() for part in losses)))
        return losses

    def _check_finite(self, name: str, value: torch.Tensor) -> None:
        """Check before the weights change, so that checkpoints never contain NaN."""
        number = torch.as_tensor(value).item()
        if not math.isfinite(number):
            raise SettingError(
                f"the {name} is {number} at step {self.step + 1}, not a number to minimise; "
                f"{self._last_good()}; lower --lr, or use dtype=float32"
            )

    def _next_batch(self) -> Batch:
        """This process's batch; every process reads all batches, so that there is one position."""
        batches: list[Batch] = [next(self._stream) for _ in range(self._accelerator.num_processes)]
        return batches[int(self._accelerator.process_index)]

    # -- log ------------------------------------------------------------------------------------

    def _write_log(self) -> float:
        parts = [torch.stack([one[i] for one in self._sums]).mean(0) for i in range(4)]
        self._sums = []
        translator, classifier, right = (part.tolist() for part in parts[1:])
        total = float(parts[0])
        translator_lr, lr = self._schedule.stage(self.step - 1)
        layers = [str(layer) for layer in self.heads.config.exit_layers]
        row = {
            "step": self.step,
            "epoch": self._stream.epoch,
            "tokens": self.tokens,
            "lr": lr,
            "translator_lr": translator_lr,
            "loss": total,
            "divergence": dict(zip(layers, translator, strict=True)),
            "cross_entropy": dict(zip(layers, classifier, strict=True)),
            "right": dict(zip(layers, right, strict=True)),
        }
        if self._accelerator.is_main_process:
            with self._writing(), (self._folder / LOG).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        return total

    def _cut_log(self) -> None:
        """Remove rows after the checkpoint, which will be written again."""
        path = self._folder / LOG
        if path.exists():
            kept = [row for row in read_log(path) if row["step"] <= self.step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    # -- checkpoints ----------------------------------------------------------------------------

    def _save(self) -> None:
        if not self._accelerator.is_main_process:
            return
        state = {
            "settings": self._settings,
            "heads": self.heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "stream": self._stream.state(),
            "step": self.step,
            "tokens": self.tokens,
            "sums": [list(one) for one in self._sums],
        }
        with self._writing():
            try:
                with replacing(self._folder / CHECKPOINT) as partial:
                    torch.save(sealed(state), partial)
            except RuntimeError as error:  # torch's writer hides the operating system's error
                raise OSError(f"{first_line(error)} (is the disk full?)") from error
        self._saved = self.step

    def _resume(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.exists():
            return
        try:
            state = unsealed(torch.load(path, map_location="cpu", weights_only=True))
            saved = dict(state["settings"])
        except Exception as error:  # a truncated zip, another file: many kinds
            raise self._no_checkpoint(error) from error
        differ = sorted(k for k in saved | self._settings if saved.get(k) != self._settings.get(k))
        if differ:
            name = differ[0]
            raise SettingError(
                f"{self._folder} holds a run begun with {name}={saved.get(name)}, and this one has "
                f"{name}={self._settings.get(name)}: give the same, or another --output_path"
            )
        try:
            self._take(state)
        except Exception as error:  # a value that is missing, or of another kind or shape
            raise self._no_checkpoint(error) from error
        if self._accelerator.is_main_process:
            self._cut_log()

    def _take(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's values."""
        self.heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._stream.restore(state["stream"])
        self.step, self.tokens = map(operator.index, (state["step"], state["tokens"]))
        device = self._accelerator.device
        self._sums = [Losses(*(part.to(device) for part in one)) for one in state["sums"]]
        self._saved = self.step

    def _no_checkpoint(self, error: Exception) -> SettingError:
        return SettingError(
            f"{self._folder / CHECKPOINT} is no checkpoint of a run: {first_line(error, 120)}; "
            f"remove it to start again"
        )

    def forget(self) -> None:
        """Remove the checkpoint of a finished run."""
        if self._accelerator.is_main_process:
            (self._folder / CHECKPOINT).unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SettingError(
                f"cannot write to {self._folder} at step {self.step}: {error}; {self._last_good()}"
            ) from error

    def _last_good(self) -> str:
        if self._saved is None:
            return "no checkpoint was written yet"
        return f"the checkpoint of step {self._saved} remains in {self._folder}"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; an incomplete last row is ignored."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _groups(objective: Objective, schedule: Schedule) -> list[dict[str, Any]]:
    """Parameter groups of translators and classifiers; weight decay is for matrices only."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in objective.heads.named_parameters():
        key = (name.startswith("translators"), parameter.dim() > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": 0.0,
            "translators": translators,
            "weight_decay": schedule.weight_decay if matrix else 0.0,
        }
        for (translators, matrix), parameters in sorted(groups.items(), key=lambda one: one[0])
    ]
