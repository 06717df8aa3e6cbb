"""lm-eval's ``hf`` model with early exits: the base of the models in ``models.lm``.

This module loads the model, changes its settings, and has its part of the results.
``models.hf_arguments`` has what the ``hf`` model is given, ``models.resolution`` how settings meet
a checkpoint, ``models.in_force`` what follows from them, and ``models.answering`` the three request
types.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.identity import fingerprint_of
from dynamax_lm.common.processor import processor_name
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.ledger import HeadCosts, Ledger
from dynamax_lm.decoders import checkpoint
from dynamax_lm.decoders.altered import check_adapters, check_unaltered
from dynamax_lm.decoders.checkpoint_identity import identity_of
from dynamax_lm.decoders.cpu.kernel_advice import no_kernel_advice
from dynamax_lm.decoders.cpu.product_choice import AUTO, PACKED
from dynamax_lm.decoders.cpu.threads import busy_cores
from dynamax_lm.decoders.decoder import Decoder
from dynamax_lm.decoders.description import text_config
from dynamax_lm.decoders.loading import WholeModel
from dynamax_lm.decoders.pretrained import check_device
from dynamax_lm.decoders.tokenizer_file import check_token_ids
from dynamax_lm.engine.draft_costs import DraftCosts
from dynamax_lm.harness.install import announce
from dynamax_lm.harness.plugin.errors import install_one_line_errors
from dynamax_lm.harness.results_config import early_exit_block
from dynamax_lm.harness.run_arguments import check_run_arguments
from dynamax_lm.harness.run_registry import LiveModel
from dynamax_lm.heads import ExitHeads
from dynamax_lm.heads.prompt_maps import PromptMapBank
from dynamax_lm.models.answering import Answering, OnExpected
from dynamax_lm.models.arguments import (
    arguments_that_count,
    check_packing,
    refuse_arguments,
)
from dynamax_lm.models.chosen import kept_or_loaded
from dynamax_lm.models.hf_arguments import hf_arguments, without_absent_gpu
from dynamax_lm.models.in_force import ledger_of, policy_of
from dynamax_lm.models.look_factors import LookFactors
from dynamax_lm.models.look_text import calibration_rows
from dynamax_lm.models.outside_layers import (
    announced_costs,
    describes_new_types,
    planned_decoder,
)
from dynamax_lm.models.prompt_maps import ChosenMaps, choose_maps, load_maps
from dynamax_lm.models.resolution import Resolved, resolve
from dynamax_lm.models.run_record import LoadedModel, cost_record
from dynamax_lm.models.runner import EngineRunner, Runner
from dynamax_lm.models.trained import ChosenHeads, LoadedHeads, exit_extras, load_heads
from dynamax_lm.settings import (
    FIXED_AT_LOADING,
    OUR_NAMES,
    ExitSettings,
    RawSettings,
    mend_split_lists,
    parse_settings,
    refuse_unknown,
)
from dynamax_lm.settings.layers import NAME as LAYERS
from dynamax_lm.settings.layers import find_layers

_log = logging.getLogger("lm_eval.dynamax_lm")  # shown by lm-eval's own settings


class DynamaxLM(Answering):
    """Early exits behind lm-eval's ``hf`` model; ``models.lm`` has one class for each door.

    Args:
        pretrained: hub id, folder, ``tiny`` or another embedded model's name, or a loaded model; by
            default the paper's checkpoint, if there is one.
        **given: our arguments (docs/settings.md), the ``hf`` model's, and those of
            ``from_pretrained``.

    Raises:
        SettingError: any wrong name or value, before weights load.
    """

    AUTO_MODEL_CLASS: Any
    ARCHITECTURE: ClassVar[checkpoint.Architecture]
    STACK: ClassVar[Any]

    def __init__(self, pretrained: Any = None, **given: Any) -> None:
        install_one_line_errors()
        no_kernel_advice()
        check_run_arguments()
        given = mend_split_lists(given)
        without_absent_gpu(given)
        refuse_arguments(given)
        self._own = {name: given[name] for name in OUR_NAMES & set(given)}
        self._raw_settings = parse_settings(self._own)
        if self._raw_settings.products == PACKED:
            check_packing(pretrained, given)
        check_device(given.get("device"))
        host = hf_arguments(pretrained, given, self.ARCHITECTURE)
        name, passed_on = host.pretrained, host.options
        self._shown_name, self._given = host.shown_name, passed_on
        self._chosen_heads: ChosenHeads | None = None
        self._loaded_heads: LoadedHeads | None = None
        self._heads: ExitHeads | None = None
        self._chosen_maps: ChosenMaps | None = None
        self._maps: PromptMapBank | None = None
        written = self._raw_settings.layers
        self._plan = None if written is None else find_layers(written)
        try:
            super().__init__(name, **passed_on)
        except SettingError:
            raise
        except Exception as error:  # damaged files raise dozens of kinds
            if isinstance(name, str):
                raise checkpoint.unreachable(self._shown_name, error) from error
            raise
        if not passed_on.get("parallelize"):
            self.join_processes()
        checkpoint.check_attention(
            getattr(text_config(self._unwrapped.config), "_attn_implementation", None)
        )
        check_adapters(self.model)
        self._checkpoint = identity_of(self.model, self.tokenizer)
        own = self._build(self._unwrapped) if checkpoint.is_known(self.config) else None
        if self._plan is not None:
            costs = self._costs_of(self.config)
            own = planned_decoder(self._plan, own, self._unwrapped, costs)
        assert own is not None, "other configurations are refused before the weights load"
        self._stack: Decoder = own
        if self.device.type == "cpu" and (slower := busy_cores(self._stack.costs.width)):
            _log.warning("%s", slower)
        if self.mixed_precision_dtype is None:
            self._stack.choose_products(
                batch=self._rows_at_once(),
                asked=self._raw_settings.products,
                arrange=isinstance(name, str),  # a model that the caller loaded is not changed
                share=self.from_first,
            )
        if self._raw_settings.cuda_graphs and self.mixed_precision_dtype is None:
            self._stack.record_steps()
        self._runner: Runner = EngineRunner()
        self._looks = LookFactors(self._stack)
        self._apply(Resolved(self.settings, self._chosen_heads, self._chosen_maps))

    @classmethod
    def _costs(cls, config: Any) -> DecoderCosts:
        """FLOPs of the decoder of a configuration, with the checkpoint's own layers."""
        raise NotImplementedError

    def _costs_of(self, config: Any) -> DecoderCosts:
        """The same with the layers that run, those from outside the package if there are any."""
        own = self._costs(config) if checkpoint.is_known(config) else None
        if self._plan is not None:
            return announced_costs(self._plan, config, own)
        assert own is not None, "other configurations are refused first"
        return own

    def _build(self, model: Any) -> Any:
        """The decoder of the loaded model, with the checkpoint's own layers."""
        return type(self).STACK(model)

    @property
    def stack(self) -> Decoder:
        """The decoder, layer by layer."""
        return self._stack

    @property
    def exit_heads(self) -> ExitHeads | None:
        """The trained heads in use, if any."""
        return self._heads

    def load_prompt_maps(self, name: str) -> PromptMapBank:
        """Prompt maps of this checkpoint, for another use than the settings in force.

        Args:
            name: a folder, or a hub id.

        Raises:
            SettingError: maps that cannot be read, or of another checkpoint.
        """
        chosen = choose_maps(name, text_config(self.config))
        assert chosen is not None, "a name was given"
        return load_maps(chosen, self._unwrapped)

    @property
    def ledger(self) -> Ledger:
        """Counts the FLOPs of an answer under the settings in force."""
        return self._ledger

    @contextmanager
    def answered_by(
        self, runner: Runner, doing: str = "", on_expected: OnExpected | None = None
    ) -> Iterator[None]:
        """Inside the block, ``runner`` answers every batch in place of the engine's functions.

        Args:
            runner: of the batches.
            doing: what for, in words that follow "Generating" in progress bars.
            on_expected: called with the expected seconds before requests are answered; they are
                from a short trial, which is made only if this is given.
        """
        before = self._runner, self._doing, self._on_expected
        self._runner, self._doing, self._on_expected = runner, doing, on_expected
        try:
            yield
        finally:
            self._runner, self._doing, self._on_expected = before

    def change(self, **own: Any) -> None:
        """Change settings without loading anything again.

        Args:
            **own: our arguments (docs/settings.md), replacing those given so far.

        Raises:
            SettingError: any wrong name or value; the settings then do not change.
        """
        merged, resolved = self._read(own)
        self._apply(resolved)
        self._own = merged

    def check(self, **own: Any) -> ExitSettings:
        """The settings that :meth:`change` would set, with its refusals, without loading heads."""
        return self._read(own)[1].settings

    def _read(self, own: dict[str, Any]) -> tuple[dict[str, Any], Resolved]:
        refuse_unknown(own, OUR_NAMES)
        for fixed in sorted(FIXED_AT_LOADING & set(own)):
            if own[fixed] != self._own.get(fixed):
                raise SettingError(
                    f"{fixed}={own[fixed]}: it is fixed once the weights have loaded"
                )
        merged = {**self._own, **own}
        return merged, self._resolve(parse_settings(merged), self.config)

    def _apply(self, resolved: Resolved) -> None:
        """Set up everything that depends on the settings; first what may be refused."""
        settings, chosen, chosen_maps = resolved
        model, used = self._unwrapped, chosen if settings.exit_layers else None
        maps = kept_or_loaded(self._maps, chosen_maps, model, load_maps)
        loaded_heads = kept_or_loaded(self._loaded_heads, used, model, load_heads)
        heads = None if loaded_heads is None else loaded_heads.heads
        if settings.exit_layers:
            self._looks.prepare(
                settings, heads, lambda: calibration_rows(self.tok_encode, self.max_length)
            )
        self.settings, self._chosen_heads, self._heads = settings, chosen, heads
        self._loaded_heads = loaded_heads
        self._chosen_maps, self._maps = chosen_maps, maps
        costs = self._costs_of(self.config)
        extras = exit_extras(heads, settings.exit_layers)
        self._ledger = ledger_of(settings, costs, extras, maps)
        self._policy = policy_of(settings, maps)
        self.begin_evaluation()
        loaded = LoadedModel(
            self.ARCHITECTURE.model,
            self._shown_name,
            self._checkpoint,
            str(getattr(self.model, "dtype", None)),
            arguments_that_count(self._given)
            | ({} if self._plan is None else {LAYERS: self._plan.name}),
        )
        self._announce(costs, extras, loaded)

    # -- construction ---------------------------------------------------------------------------

    def check_config(self, config: Any) -> bool:
        """The last call before tokenizer and weights: the settings meet the configuration."""
        planned = describes_new_types(self._plan)
        checkpoint.check_config(config, self.ARCHITECTURE, planned=planned)
        self.settings, self._chosen_heads, self._chosen_maps = self._resolve(
            self._raw_settings, config
        )
        return text_config(config) is not config  # of most wrappers lm-eval does not know it

    @contextmanager
    def _context(self) -> Iterator[None]:
        """As above; hooks may have been added since the model was loaded."""
        check_unaltered(self._unwrapped)
        with super()._context():
            yield

    def check_tokenizer(self, source: Any) -> None:
        """Refuse a file whose ids are not sound."""
        if isinstance(source, str):
            check_token_ids(source)

    def weights_loader(self) -> WholeModel:
        """Refuses a checkpoint whose files lack a tensor."""
        return WholeModel(self.config)

    def _resolve(self, raw: RawSettings, config: Any) -> Resolved:
        embedded = None
        if self._plan is None:
            embedded = checkpoint.embedded_model(self._shown_name, self.ARCHITECTURE)
        known = self._chosen_heads, self._chosen_maps
        return resolve(raw, text_config(config), self._costs_of(config), embedded, *known)

    @property
    def _unwrapped(self) -> Any:
        """The model behind data-parallel and adapter wrappers."""
        model = self.model
        get_base = getattr(model, "get_base_model", None)
        return get_base() if callable(get_base) else model

    def _announce(
        self, costs: DecoderCosts, extras: Sequence[HeadCosts], loaded: LoadedModel
    ) -> None:
        """Tell the harness what the run's results say of the model."""
        settings, chosen = self.settings, self._chosen_heads
        identity = loaded.identity(settings)
        # A measured choice must not change the fingerprint of equal runs.
        if self._raw_settings.products != AUTO:
            identity["products"] = self._raw_settings.products
        if not self._raw_settings.cuda_graphs:
            identity["cuda_graphs"] = False
        self.fingerprint = fingerprint_of(identity)
        self.early_exit_run = announce(
            self,
            LiveModel(
                fingerprint=self.fingerprint,
                identity=identity,
                settings=loaded.describe(settings),
                layers=costs.n_layers,
                trace_dir=None if settings.trace_dir is None else Path(settings.trace_dir),
                certificate=None if chosen is None or self._lossless else chosen.config.certificate,
                costs=cost_record(costs, extras, settings, self._maps),
            ),
        )

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
        if heads is not None and self._loaded_heads is not None:
            heads |= self._loaded_heads.describe()
        products = {"processor": processor_name()} | self._stack.products.describe()
        block = early_exit_block(self) | {"seconds": seconds, "heads": heads, "products": products}
        if self._chosen_maps is not None:
            block["prompt_maps"] = self._chosen_maps.describe()
        block["cuda_graphs"] = self._stack.records_steps
        if self.rows_in_flight:
            block["rows_in_flight"] = self.rows_in_flight
        if self._lossless:
            block["speed"] = self.speed.to_json()
            (exit_layer,) = self.settings.exit_layers
            costs = DraftCosts.billed(self._ledger, exit_layer)
            self.speed.report(costs, exit_layer, self._stack.n_layers)
        return info | {"early_exit": block}
