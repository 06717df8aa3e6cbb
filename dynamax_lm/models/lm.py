"""``dynamax-mistral`` and ``dynamax-mamba``: lm-eval's ``hf`` model with early exits inside.

This module has the constructor, the three request types, and the model information in results.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from dynamax_lm import __version__
from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.identity import fingerprint_of
from dynamax_lm.common.processor import processor_name
from dynamax_lm.common.tracefile import check_folder
from dynamax_lm.core.ledger import (
    AttentionCosts,
    HeadCosts,
    Ledger,
    Mamba2Costs,
)
from dynamax_lm.core.measures import facts_of
from dynamax_lm.core.phase_timer import PhaseTimer
from dynamax_lm.core.policy import FULL_DEPTH, ExitPolicy
from dynamax_lm.core.score import ScoredAnswer, ScoreRequest
from dynamax_lm.core.skipped_states import registered
from dynamax_lm.core.stack import LayerStack
from dynamax_lm.core.trace import (
    RECORDS,
    AnswerTrace,
    ExitRecord,
    FlopsBreakdown,
    TracedScore,
    TracedText,
    TracedTotal,
)
from dynamax_lm.decoders import checkpoint
from dynamax_lm.decoders.attention import MistralStack
from dynamax_lm.decoders.cpu.product_choice import AUTO, PACKED
from dynamax_lm.decoders.cpu.products import can_pack
from dynamax_lm.decoders.mamba2 import Mamba2Stack
from dynamax_lm.harness.install import announce
from dynamax_lm.harness.plugin.errors import install_one_line_errors
from dynamax_lm.harness.results_config import early_exit_block
from dynamax_lm.harness.run_registry import LiveModel
from dynamax_lm.heads import ExitHeads
from dynamax_lm.models.processes import Processes
from dynamax_lm.models.requests import (
    TextRequest,
    answer_text,
    answer_text_tokens,
    fit_score,
    rolling_windows,
    row_seeds,
    text_request,
)
from dynamax_lm.models.runner import CoreRunner, Runner
from dynamax_lm.models.settings import (
    FIXED_AT_LOADING,
    FROM_PRETRAINED_NAMES,
    OUR_NAMES,
    ExitSettings,
    RawSettings,
    mend_split_lists,
    parse_settings,
    refuse_pickled_weights,
    refuse_unknown,
)
from dynamax_lm.models.speed_check import SpeedCheck
from dynamax_lm.models.trained import ChosenHeads, choose_heads, exit_extras, load_heads

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings
_CPU_BATCH = 8
"""Rows of a batch under ``batch_size=auto`` on a CPU, where more rows gain little."""

_NOT_IN_FINGERPRINT = frozenset(
    {
        "batch_size",
        "max_batch_size",
        "device",
        "parallelize",
        "max_memory_per_gpu",
        "max_cpu_memory",
        "offload_folder",
        "logits_cache",
        "cache_dir",
        "local_files_only",
        "force_download",
        "token",
        "proxies",
        "device_map",
        "max_memory",
        "low_cpu_mem_usage",
    }
)
_DEFAULTS = {"attn_implementation": "sdpa", "subfolder": ""}
"""Defaults of arguments of ``from_pretrained``."""

_SAID_ELSEWHERE = frozenset({"dtype", "use_safetensors", "trust_remote_code"})
_UNFIT = {
    "tp_plan": "tensor parallelism cuts the projections that exits read; use parallelize=True",
    "quantization_config": "the hf model passes the checkpoint's own, and takes no second one",
    "autogptq": "its weights are not read from plain safetensors modules; leave it out",
}
_Item = TypeVar("_Item")


def _check_packing(pretrained: Any, given: Mapping[str, Any]) -> None:
    """Refuse ``products=packed`` where no weight would be packed."""
    why = ""
    device = given.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(str(device)).type != "cpu":
        why = f"weights are arranged on a CPU only, and this run is on {device}"
    elif pretrained is not None and not isinstance(pretrained, str):
        why = "a model that is handed in stays as it is"
    elif given.get("mixed_precision_dtype") is not None:
        why = "mixed precision takes the plain weights"
    elif not can_pack(torch.empty(0)):
        why = "this build of torch lacks oneDNN's operators"
    if why:
        raise SettingError(f"products=packed: {why}; omit it")


class DynamaxLM(Processes):
    """Early exits behind lm-eval's ``hf`` model; see :class:`DynamaxMistral`.

    Args:
        pretrained: hub id, folder, ``tiny``, or a loaded model; by default the paper's checkpoint.
        **given: our arguments (README, "Model arguments"), the ``hf`` model's, and those of
            ``from_pretrained``.

    Raises:
        SettingError: any wrong name or value, before weights load.
    """

    ARCHITECTURE: ClassVar[checkpoint.Architecture]
    STACK: ClassVar[Any]
    COSTS: ClassVar[Any]

    def __init__(self, pretrained: Any = None, **given: Any) -> None:
        install_one_line_errors()
        given = mend_split_lists(given)
        host = set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}
        refuse_unknown(given, host | FROM_PRETRAINED_NAMES | OUR_NAMES)
        refuse_pickled_weights(given)
        for name, why in _UNFIT.items():
            if given.get(name):
                raise SettingError(f"{name}={given[name]!r} cannot be used with early exits: {why}")
        rows = str(given.get("batch_size", 1))
        if rows.lstrip("-").isdigit() and int(rows) < 1:
            raise SettingError(f"batch_size={rows}: at least 1, or auto")
        if given.get("backend", "default") not in {"default", "causal"}:
            raise SettingError(f"backend={given['backend']!r}: only causal models have exits")
        checkpoint.check_attention(given.get("attn_implementation"))
        self._own = {name: given[name] for name in OUR_NAMES & set(given)}
        self._raw_settings = parse_settings(self._own)
        if self._raw_settings.products == PACKED:
            _check_packing(pretrained, given)
        passed_on = {name: value for name, value in given.items() if name not in OUR_NAMES}
        if given.get("device") is None and not torch.cuda.is_available():
            passed_on["device"] = "cpu"  # the hf model's own default is a GPU
        shown = pretrained or self.ARCHITECTURE.default
        if isinstance(shown, str):
            if shown == checkpoint.TINY:
                passed_on.setdefault("dtype", "float32")
            name = checkpoint.resolve_name(shown, self.ARCHITECTURE)
            if not given.get("gguf_file") and not given.get("gptqmodel"):
                passed_on["use_safetensors"] = True
        else:
            name = shown
        self._shown_name = shown if isinstance(shown, str) else shown.config.name_or_path
        self._given = passed_on
        self._chosen_heads: ChosenHeads | None = None
        self._heads: ExitHeads | None = None
        try:
            super().__init__(name, **passed_on)
        except SettingError:
            raise
        except (OSError, ValueError) as error:
            if isinstance(name, str):
                raise checkpoint.unreachable(self._shown_name, error) from error
            raise
        if not passed_on.get("parallelize"):
            self.join_processes()
        checkpoint.check_attention(getattr(self._unwrapped.config, "_attn_implementation", None))
        self._weights = checkpoint.sample_weights(self._unwrapped)
        self._stack = type(self).STACK(self._unwrapped)
        if self.mixed_precision_dtype is None:
            self._stack.choose_products(
                batch=self._rows_at_once(),
                asked=self._raw_settings.products,
                arrange=isinstance(name, str),  # a model that the caller loaded is not changed
                share=self.from_first,
            )
        self._runner: Runner = CoreRunner()
        self._apply(self.settings, self._chosen_heads)

    @property
    def stack(self) -> LayerStack:
        """The decoder, layer by layer."""
        stack: LayerStack = self._stack
        return stack

    @property
    def exit_heads(self) -> ExitHeads | None:
        """The trained heads in use, if any."""
        return self._heads

    @property
    def ledger(self) -> Ledger:
        """Counts the FLOPs of an answer under the settings in force."""
        return self._ledger

    @contextmanager
    def answered_by(self, runner: Runner) -> Iterator[None]:
        """Inside the block, ``runner`` answers every batch in place of the core's functions."""
        before, self._runner = self._runner, runner
        try:
            yield
        finally:
            self._runner = before

    def change(self, **own: Any) -> None:
        """Change settings without loading anything again.

        Args:
            **own: our arguments (README, "Model arguments"), replacing those given so far.

        Raises:
            SettingError: any wrong name or value; the settings then do not change.
        """
        merged, settings, chosen = self._read(own)
        self._apply(settings, chosen)
        self._own = merged

    def check(self, **own: Any) -> ExitSettings:
        """The settings that :meth:`change` would set, with its refusals, without loading heads."""
        return self._read(own)[1]

    def _read(self, own: dict[str, Any]) -> tuple[dict[str, Any], ExitSettings, ChosenHeads | None]:
        refuse_unknown(own, OUR_NAMES)
        for fixed in sorted(FIXED_AT_LOADING & set(own)):
            if own[fixed] != self._own.get(fixed):
                raise SettingError(
                    f"{fixed}={own[fixed]}: it is fixed once the weights have loaded"
                )
        merged = {**self._own, **own}
        return merged, *self._resolve(parse_settings(merged), self.config)

    def _apply(self, settings: ExitSettings, chosen: ChosenHeads | None) -> None:
        """Set up everything that depends on the settings; heads first, as they may be refused."""
        heads: ExitHeads | None = None
        if chosen is not None and settings.exit_layers:
            heads = self._heads
            if heads is None or heads.config != chosen.config:
                heads = load_heads(chosen, self._unwrapped)
        self.settings, self._chosen_heads, self._heads = settings, chosen, heads
        costs = type(self).COSTS.from_config(self.config)
        extras = exit_extras(heads, settings.exit_layers)
        self._ledger = Ledger(
            costs,
            exit_layers=settings.exit_layers,
            confidence=settings.confidence,
            skipped_state=settings.skipped_state,
            exit_extras=extras,
        )
        self._policy = FULL_DEPTH
        if settings.exit_layers:
            own = settings.threshold if isinstance(settings.threshold, float) else 0.0
            self._policy = ExitPolicy(settings.exit_layers, settings.confidence, own, settings.rule)
        self.timer = PhaseTimer()
        self.speed = SpeedCheck()
        identity = self._identity()
        self.fingerprint = fingerprint_of(identity)
        self._announce(costs, extras, identity)

    # -- construction ---------------------------------------------------------------------------

    def _get_backend(self, config: Any, **kwargs: Any) -> None:
        """The last call before tokenizer and weights: the settings meet the configuration."""
        checkpoint.check_config(config, self.ARCHITECTURE)
        self.settings, self._chosen_heads = self._resolve(self._raw_settings, config)
        super()._get_backend(config, **kwargs)

    def _resolve(self, raw: RawSettings, config: Any) -> tuple[ExitSettings, ChosenHeads | None]:
        chosen = choose_heads(
            raw,
            pretrained=self._shown_name,
            embedded=self.ARCHITECTURE.folder,
            config=config,
            known=self._chosen_heads,
        )
        settings = raw.resolve(
            n_layers=config.num_hidden_layers,
            architecture=self.ARCHITECTURE.name,  # type: ignore[arg-type]
            heads=None if chosen is None else chosen.facts,
        )
        if settings.trace_dir is not None:
            check_folder(Path(settings.trace_dir))
        return settings, chosen

    @property
    def _unwrapped(self) -> Any:
        """The model behind data-parallel and adapter wrappers."""
        model = self.model
        get_base = getattr(model, "get_base_model", None)
        return get_base() if callable(get_base) else model

    def _identity(self) -> dict[str, Any]:
        """The checkpoint and every setting that can change a number, as JSON values."""
        known: dict[str, Any] = {
            "model": self.ARCHITECTURE.model,
            "pretrained": self._shown_name,
            "arguments": self._arguments(),
            "dtype": str(getattr(self.model, "dtype", None)),
            "weights": self._weights,
            "settings": self.settings.fingerprint_fields(),
            "version": __version__,
            "records": RECORDS,
        }
        if (
            self._raw_settings.products != AUTO
        ):  # a measured choice must not change the fingerprint of equal runs
            known["products"] = self._raw_settings.products
        return known

    def _arguments(self) -> dict[str, str]:
        """The ``hf`` model's arguments that can change a number and are not at their default."""
        host = inspect.signature(HFLM.__init__).parameters
        defaults = {name: str(one.default) for name, one in host.items()} | _DEFAULTS
        return {
            name: str(value)
            for name, value in self._given.items()
            if name not in _NOT_IN_FINGERPRINT
            and value is not None
            and str(value) != defaults.get(name)
        }

    def _announce(
        self,
        costs: AttentionCosts | Mamba2Costs,
        extras: Sequence[HeadCosts],
        identity: Mapping[str, Any],
    ) -> None:
        folder, chosen = self.settings.trace_dir, self._chosen_heads
        settings = {
            "model": self.ARCHITECTURE.model,
            "pretrained": self._shown_name,
            "weights": self._weights,
            "dtype": str(getattr(self.model, "dtype", None)),
            "arguments": {
                name: value
                for name, value in sorted(self._arguments().items())
                if name not in _SAID_ELSEWHERE
            },
        }
        self.early_exit_run = announce(
            self,
            LiveModel(
                fingerprint=self.fingerprint,
                identity=identity,
                settings=settings
                | self.settings.describe()
                | {"heads_fingerprint": self.settings.heads_fingerprint},
                layers=costs.n_layers,
                trace_dir=None if folder is None else Path(folder),
                certificate=None if chosen is None or self._lossless else chosen.config.certificate,
                costs={
                    "architecture": self.ARCHITECTURE.name,
                    **asdict(costs),
                    "exit_extras": [extra._asdict() for extra in extras],
                }
                | self._outside_costs(costs),
            ),
        )

    def _outside_costs(self, costs: AttentionCosts | Mamba2Costs) -> dict[str, Any]:
        """What a report needs to bill classes from outside, whose code it does not run."""
        written: dict[str, Any] = {}
        facts, policy = facts_of(self.settings.confidence), registered(self.settings.skipped_state)
        if facts.outside:
            exits = len(self.settings.exit_layers)
            written["measure"] = facts.record(exits, costs.width, costs.vocabulary)
        if policy is not None:
            written["skipped_state"] = policy.facts.record(costs)
        return written

    def get_model_info(self) -> dict[str, Any]:
        """The ``hf`` model's information, and the run's settings, histogram and ledger."""
        info: dict[str, Any] = super().get_model_info()
        seconds = {name: round(value, 3) for name, value in asdict(self.timer).items()}
        if self.timer.reference:
            _log.info(
                "the full-depth reference took %.1f s, the prompts %.1f s and the answers %.1f s; "
                "reference=false omits the reference",
                self.timer.reference,
                self.timer.prompt,
                self.timer.answer,
            )
        heads = None if self._chosen_heads is None else self._chosen_heads.describe()
        products = {"processor": processor_name()} | self._stack.products.describe()
        block = early_exit_block(self) | {"seconds": seconds, "heads": heads, "products": products}
        if self._lossless:
            block["speed"] = self.speed.to_json()
            rate = (block.get("drafts") or {}).get("acceptance_rate")
            self.speed.report(rate, self._stack.costs, self.batch_size)
        return info | {"early_exit": block}

    # -- requests -------------------------------------------------------------------------------

    def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        """A fixed size on a CPU, where probing with full contexts takes minutes."""
        if self.device.type == "cpu":
            return min(_CPU_BATCH, int(self.max_batch_size))
        size: int = super()._detect_batch_size(requests, pos)
        return size

    def _rows_at_once(self) -> int:
        """The batch size that products are chosen for; on a GPU there is no choice."""
        size = self.batch_size
        return min(_CPU_BATCH, int(self.max_batch_size)) if size == "auto" else int(size)

    def _batches(self, items: list[_Item]) -> Iterator[list[_Item]]:
        size = self.batch_size
        if size == "auto":
            size = self._detect_batch_size()
        for start in range(0, len(items), int(size)):
            yield items[start : start + int(size)]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Score (key, context ids, continuation ids), each as a response with its record."""
        del override_bs
        fitted = [fit_score(context, tokens, self.max_length) for _, context, tokens in requests]
        results: list[tuple[float, bool]] = []
        for (key, _, _), answer in zip(requests, self._score(fitted, disable_tqdm), strict=True):
            result = TracedScore(answer.score, self._record([answer], answer.full_depth_score))
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
            results.append(result)
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, window by window."""
        windows = [rolling_windows(self, request.args[0]) for request in requests]
        answers = iter(self._score([one for some in windows for one in some], disable_tqdm))
        totals: list[float] = []
        for request, some in zip(requests, windows, strict=True):
            parts = [next(answers) for _ in some]
            full = [part.full_depth_score for part in parts]
            known = [pair[0] for pair in full if pair is not None]
            reference = sum(known) if len(known) == len(parts) else None
            total = TracedTotal(
                sum(part.score[0] for part in parts), self._record(parts, reference)
            )
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            totals.append(total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate every request's text, each as a response with its record."""
        seeds = row_seeds(requests, torch.initial_seed())
        ready = [
            text_request(self, request.args[0], request.args[1], seed)
            for request, seed in zip(requests, seeds, strict=True)
        ]
        order = sorted(
            range(len(ready)),
            key=lambda n: (-len(ready[n].request.prompt), ready[n].request.prompt),
        )
        texts: dict[int, TracedText] = {}
        with self._progress(len(requests), "Generating", disable_tqdm) as bar:
            for numbers in self._batches(order):
                some = [ready[number] for number in numbers]
                for number, text in zip(numbers, self._generate(some), strict=True):
                    texts[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                bar.update(len(numbers))
        return [texts[number] for number in range(len(requests))]

    def _generate(self, some: list[TextRequest]) -> list[TracedText]:
        with self._context():
            requests, before = [one.request for one in some], self.timer.answer
            answers = self._runner.generate(
                self._stack,
                requests,
                policy=self._policy,
                skipped_state=self.settings.skipped_state,
                reference=self.settings.reference,
                heads=self._heads,
                timer=self.timer,
                draft_length=self.settings.draft_length,
            )
            if self._lossless and self.speed.wanted:
                took = self.timer.answer - before
                answers = self.speed.check(self._stack, requests, answers, took)
            traces = [
                replace(
                    answer.trace,
                    text_tokens=answer_text_tokens(self, answer.trace.tokens, one.until),
                )
                for one, answer in zip(some, answers, strict=True)
            ]
        texts = []
        for one, answer, trace in zip(some, answers, traces, strict=True):
            reference = None
            if answer.reference is not None:
                reference = answer_text(self, answer.reference, one.until)
            record = ExitRecord(
                self.fingerprint,
                (trace,),
                self._bill(trace),
                reference,
                self._bill(trace.text),
                (answer.attached,),
            )
            texts.append(TracedText(answer_text(self, trace.tokens, one.until), record))
        return texts

    @property
    def _lossless(self) -> bool:
        return self.settings.draft_length is not None

    def _bill(self, trace: AnswerTrace) -> FlopsBreakdown:
        if trace.rounds is None:
            return self._ledger.answer(trace.prompt_tokens, trace.layers_used)
        return self._ledger.lossless(trace.prompt_tokens, trace.rounds, len(trace))

    def _score(self, requests: list[ScoreRequest], disable_tqdm: bool) -> list[ScoredAnswer]:
        """Score in batches, longest first; requests that share a prompt are adjacent."""
        order = sorted(
            range(len(requests)),
            key=lambda n: (
                -len(requests[n].prompt) - len(requests[n].continuation),
                requests[n].prompt,
                requests[n].continuation,
            ),
        )
        if self._lossless:
            _log.info("mode=lossless: log-likelihoods are computed at full depth")
        answers: dict[int, ScoredAnswer] = {}
        with self._progress(len(requests), "Scoring", disable_tqdm) as bar:
            for numbers in self._batches(order):
                with self._context():
                    scored = self._runner.score(
                        self._stack,
                        [requests[number] for number in numbers],
                        policy=FULL_DEPTH if self._lossless else self._policy,
                        skipped_state=self.settings.skipped_state,
                        reference=self.settings.reference,
                        heads=self._heads,
                        softmax_dtype=self.softmax_dtype or torch.float32,
                        timer=self.timer,
                    )
                answers.update(zip(numbers, scored, strict=True))
                bar.update(len(numbers))
        return [answers[number] for number in range(len(requests))]

    def _record(self, answers: Sequence[ScoredAnswer], reference: Any) -> ExitRecord:
        bill = FlopsBreakdown()
        for answer in answers:
            trace = answer.trace
            if self._lossless:
                bill += self._ledger.at_full_depth(trace.prompt_tokens, len(trace))
            else:
                bill += self._ledger.answer(trace.prompt_tokens, trace.layers_used)
        return ExitRecord(
            self.fingerprint,
            tuple(answer.trace for answer in answers),
            bill,
            reference,
            attached=tuple(answer.attached for answer in answers),
        )

    def _progress(self, total: int, what: str, disable: bool) -> Any:
        return tqdm(total=total, desc=f"{what} with early exits", disable=disable or self.rank != 0)

    @contextmanager
    def _context(self) -> Iterator[None]:
        """No gradients, and mixed precision if configured."""
        dtype = self.mixed_precision_dtype
        autocast = torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)
        with torch.inference_mode(), autocast:
            yield


class DynamaxMistral(DynamaxLM):
    """Mistral- and Llama-type checkpoints with early exits."""

    ARCHITECTURE = checkpoint.ATTENTION
    STACK = MistralStack
    COSTS = AttentionCosts


class DynamaxMamba(DynamaxLM):
    """Mamba-2 checkpoints with early exits."""

    ARCHITECTURE = checkpoint.MAMBA2
    STACK = Mamba2Stack
    COSTS = Mamba2Costs
