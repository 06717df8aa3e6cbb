"""All settings of one run: read, checked against the checkpoint's configuration, and frozen.

This module has the defaults and the checks of combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynamax_lm.common.errors import SettingError
from dynamax_lm.core.costs import DecoderCosts
from dynamax_lm.core.looks import FULL, Look, looking
from dynamax_lm.core.measures import NOTHING, facts_of
from dynamax_lm.core.thresholds import PLAIN, ThresholdRule, make_rule, rule_class
from dynamax_lm.settings.exits import ExitPlacement, Listed, Spread, read_exit_layers
from dynamax_lm.settings.heads import (
    CERTIFIED,
    HeadsFacts,
    choose_confidence,
    choose_threshold,
    place_exits,
)
from dynamax_lm.settings.layers import read_layers
from dynamax_lm.settings.look import check_look, read_look_setting
from dynamax_lm.settings.lossless import (
    AUTO,
    LOSSLESS,
    check_lossless,
    lossless_exit,
    lossless_state,
    lossless_threshold,
    read_draft_length,
    read_rows_in_flight,
)
from dynamax_lm.settings.measures import check_exits, find_measure, read_confidence
from dynamax_lm.settings.products import read_products
from dynamax_lm.settings.prompts import MAPS as PROMPT_MAPS
from dynamax_lm.settings.prompts import (
    PromptMapsFacts,
    check_prompt_maps,
    place_prompt_exit,
    read_prompt_exit,
    read_prompt_maps,
)
from dynamax_lm.settings.rules import (
    Threshold,
    check_rule,
    find_rule,
    read_rule,
    read_rule_arguments,
    read_threshold,
)
from dynamax_lm.settings.skipped import (
    DEFAULT,
    Architecture,
    check_source,
    find_skipped_state,
    read_skipped_state,
)
from dynamax_lm.settings.values import (
    is_missing,
    read_folder,
    read_name,
    read_switch,
    refusal,
)

Plain = str | float | bool | list[int] | list[float] | dict[str, float] | None
"""A setting as a JSON value."""

_MODES = ("exit", "full", LOSSLESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitSettings:
    """The settings of one run, checked against its checkpoint.

    Attributes:
        exit_layers: ascending, each in 1..L-1; empty in ``mode="full"``.
        confidence: name of the measure, with the digest of its source where it is from outside.
        threshold: in [0, 1], or one for each exit.
        skipped_state: name of the policy, with the digest of its source where it is from outside.
        mode: of answers: ``exit``, ``full`` or ``lossless``.
        reference: whether answers are compared with the full-depth model's.
        heads: folder, hub id or shipped name of trained heads, or ``None``.
        trace_dir: folder for one JSONL row a token, or ``None``.
        heads_fingerprint: identifies everything of the heads that can change a number.
        exit_rule: name of the rule, with the digest of its source where it is from outside.
        exit_rule_args: arguments of the rule, by name.
        draft_length: largest number of tokens in a draft, 0 for an adaptive one; ``None`` unless
            lossless.
        rows_in_flight: rows generated at a time, or ``None`` for the default; changes results by
            rounding only.
        prompt_exit: layers that prompt tokens but the last run; ``None`` for all.
        look: how a confidence that reads logits looks at the vocabulary.
        prompt_maps: folder or hub id of maps for the layers above ``prompt_exit``, or ``None``.
        prompt_maps_fingerprint: identifies everything of them that can change a number.
    """

    exit_layers: tuple[int, ...]
    confidence: str
    threshold: Threshold
    skipped_state: str
    mode: str
    reference: bool
    heads: str | None
    trace_dir: str | None
    heads_fingerprint: str | None = None
    exit_rule: str = PLAIN
    exit_rule_args: tuple[tuple[str, float], ...] = ()
    draft_length: int | None = None
    rows_in_flight: int | None = None
    prompt_exit: int | None = None
    look: Look = FULL
    prompt_maps: str | None = None
    prompt_maps_fingerprint: str | None = None

    @property
    def measure(self) -> str:
        """The measure and its look, by the name that policies, bills and certificates have."""
        return looking(self.confidence, self.look.name)

    @property
    def rule(self) -> ThresholdRule | None:
        """The rule for the threshold at each exit and step; ``None`` for a constant one."""
        return make_rule(self.exit_rule, self.threshold, dict(self.exit_rule_args))

    def describe(self) -> dict[str, Plain]:
        """Every setting as plain JSON, for the results file.

        A plain rule or look is omitted, and so are the prompt exit where prompts run all layers,
        and maps where there are none.
        """
        threshold = self.threshold
        rule: dict[str, Plain] = {}
        if self.exit_rule != PLAIN:
            rule = {"exit_rule": self.exit_rule, "exit_rule_args": dict(self.exit_rule_args)}
        drafts: dict[str, Plain] = {}
        if self.draft_length is not None:
            drafts = {"draft_length": self.draft_length or AUTO}
        look: dict[str, Plain] = {} if self.look == FULL else {"look": self.look.name}
        return {
            "exit_layers": list(self.exit_layers),
            "confidence": self.confidence,
            **look,
            "threshold": list(threshold) if isinstance(threshold, tuple) else threshold,
            "skipped_state": self.skipped_state,
            "mode": self.mode,
            "reference": self.reference,
            "heads": self.heads,
            "trace_dir": self.trace_dir,
            **rule,
            **drafts,
            **self._prompts(),
        }

    def _prompts(self) -> dict[str, Plain]:
        """The prompt exit and its maps, if there are any."""
        found: dict[str, Plain] = {}
        if self.prompt_exit is not None:
            found["prompt_exit"] = self.prompt_exit
        if self.prompt_maps is not None:
            found["prompt_maps"] = self.prompt_maps
        return found

    def fingerprint_fields(self) -> dict[str, Plain]:
        """The settings that can change a number; at full depth the exits' cannot."""
        fields = self.describe()
        del fields["trace_dir"]
        prompts = self._prompts()
        if self.prompt_maps is not None:
            prompts["prompt_maps"] = self.prompt_maps_fingerprint
        if self.mode == "full":
            return {"mode": self.mode, "reference": self.reference, **prompts}
        fields["heads"] = self.heads_fingerprint  # their contents, not their path
        return fields | prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSettings:
    """The settings as given, each well-formed, not yet checked against a checkpoint.

    Attributes:
        exit_layers: the rule; the default one where none was given.
        confidence: as written, not loaded yet, or ``None`` where none was given.
        threshold: in [0, 1], one for each exit, ``certified``, or ``None`` where none was given.
        skipped_state: as written, not loaded yet, or ``None`` where none was given.
        mode: of answers: ``exit``, ``full`` or ``lossless``.
        reference: whether answers are compared with the full-depth model's.
        trace_dir: folder, or ``None``.
        heads: folder or hub id, or ``None`` for none.
        heads_chosen: whether the user gave heads, or ``none``; if not, heads that ship with the
            checkpoint are the default.
        products: ``auto``, ``packed`` or ``plain``; changes results by rounding only.
        cuda_graphs: whether decoding steps are recorded on a GPU; changes results by rounding only.
        exit_rule: as written, not loaded yet, or ``None`` where none was given.
        exit_rule_args: arguments of the rule, by name.
        draft_length: largest number of tokens in a draft, 0 for an adaptive one; ``None`` unless
            lossless.
        rows_in_flight: rows generated at a time, or ``None`` for the default; changes results by
            rounding only.
        prompt_exit: layers that prompt tokens but the last run; ``None`` for all.
        look: how a confidence that reads logits looks at the vocabulary.
        layers: the layers in place of the checkpoint's own, as written, or ``None`` for these.
        prompt_maps: folder or hub id of maps for the layers above ``prompt_exit``, or ``None``.
    """

    exit_layers: ExitPlacement
    confidence: str | None
    threshold: Threshold | str | None
    skipped_state: str | None
    mode: str
    reference: bool
    trace_dir: str | None
    heads: str | None = None
    heads_chosen: bool = False
    products: str = "auto"
    cuda_graphs: bool = True
    exit_rule: str | None = None
    exit_rule_args: tuple[tuple[str, float], ...] = ()
    draft_length: int | None = None
    rows_in_flight: int | None = None
    prompt_exit: int | None = None
    look: Look = FULL
    layers: str | None = None
    prompt_maps: str | None = None

    def resolve(
        self,
        *,
        n_layers: int,
        architecture: Architecture | DecoderCosts,
        heads: HeadsFacts | None = None,
        prompt_maps: PromptMapsFacts | None = None,
    ) -> ExitSettings:
        """Fill in defaults, and check the settings against the checkpoint's configuration.

        In ``mode="full"`` no token exits, but wrong values are still refused, as they are in the
        run with exits that it is compared with.

        Args:
            n_layers: L, at least 1.
            architecture: the kind of all layers, or the costs of the decoder.
            heads: the trained heads in use, if any.
            prompt_maps: those of the prompt exit, if any.

        Raises:
            SettingError: exits outside 1..L-1, too few layers for any, a ``skipped_state`` that
                these layers do not have, a measure that needs more exits, heads without them, a
                look that does not fit, or maps of another prompt exit.
        """
        skipped_state = self.skipped_state or DEFAULT
        if self.mode == LOSSLESS:
            skipped_state = lossless_state(self.skipped_state)
        skipped_state = find_skipped_state(skipped_state, architecture)
        rule = find_rule(self.exit_rule or PLAIN)
        confidence = self._confidence(rule, heads)
        exits: tuple[int, ...] = ()
        if self.mode != "full":
            exits = self._exits(n_layers, confidence, heads)
        elif isinstance(self.exit_layers, Listed):
            self.exit_layers.place(n_layers)
        costs = None if isinstance(architecture, str) else architecture
        check_look(self.look, confidence, exits, costs)
        threshold = self._threshold(rule, looking(confidence, self.look.name), heads)
        if self.mode == LOSSLESS:
            check_lossless(confidence)
        check_rule(rule, threshold, self.exit_rule_args, exits)
        check_source(skipped_state, architecture, exits)
        prompt_exit = place_prompt_exit(self.prompt_exit, n_layers)
        check_prompt_maps(prompt_maps, prompt_exit)
        return ExitSettings(
            exit_layers=exits,
            confidence=confidence,
            threshold=threshold,
            skipped_state=skipped_state,
            mode=self.mode,
            reference=self.reference,
            heads=None if heads is None else heads.name,
            trace_dir=self.trace_dir,
            heads_fingerprint=None if heads is None else heads.fingerprint,
            exit_rule=rule,
            exit_rule_args=self.exit_rule_args,
            draft_length=self.draft_length,
            rows_in_flight=self.rows_in_flight,
            prompt_exit=prompt_exit,
            look=self.look,
            prompt_maps=None if prompt_maps is None else prompt_maps.name,
            prompt_maps_fingerprint=None if prompt_maps is None else prompt_maps.fingerprint,
        )

    def _confidence(self, rule: str, heads: HeadsFacts | None) -> str:
        if rule == PLAIN or rule_class(rule).asks:
            return find_measure(choose_confidence(self.confidence, heads)).name
        if self.confidence is not None:
            why = f"exit_rule={rule} evaluates no confidence; leave it out"
            raise refusal("confidence", self.confidence, why)
        return NOTHING.name

    def _threshold(self, rule: str, confidence: str, heads: HeadsFacts | None) -> Threshold:
        if self.mode == LOSSLESS and self.threshold in {None, CERTIFIED}:
            return lossless_threshold(rule, self.threshold)
        if rule == PLAIN:
            return choose_threshold(self.threshold, confidence, heads)
        if self.threshold == CERTIFIED:
            why = f"a certificate is of one threshold at every exit, not of exit_rule={rule}"
            raise refusal("threshold", CERTIFIED, why)
        if not rule_class(rule).takes_threshold:
            if self.threshold is not None:
                raise refusal("threshold", self.threshold, f"exit_rule={rule} takes none")
            return 0.0
        return choose_threshold(self.threshold, confidence, None)

    def _exits(self, n_layers: int, confidence: str, heads: HeadsFacts | None) -> tuple[int, ...]:
        if n_layers < 2:
            why = "there is no earlier layer at which to exit; use mode=full"
            layers = f"{n_layers} layer (num_hidden_layers of its config.json)"
            raise SettingError(f"mode=exit: this model has {layers}, and {why}")
        exits = place_exits(self.exit_layers, n_layers, heads)
        if self.mode == LOSSLESS:
            exits = lossless_exit(exits, chosen=not isinstance(self.exit_layers, Spread))
        check_exits(facts_of(confidence), exits)
        return exits


def parse_settings(raw: Mapping[str, object]) -> RawSettings:
    """Read this package's arguments among all model arguments, in any of their forms.

    Args:
        raw: model arguments by name, lists whole (see ``mend_split_lists``); other names are
            ignored.

    Raises:
        SettingError: a value that is invalid for every checkpoint.
    """
    mode = read_name("mode", raw.get("mode"), _MODES) or "exit"
    draft_length = read_draft_length(raw.get("draft_length"), mode)
    layers = read_layers(raw.get("layers"))
    for trained in ("heads", PROMPT_MAPS):
        if layers is not None and not is_missing(raw.get(trained)):
            why = "these are trained for the checkpoint's own layers; leave it out with layers"
            raise refusal(trained, raw.get(trained), why)
    prompt_exit = read_prompt_exit(raw.get("prompt_exit"), mode)
    return RawSettings(
        exit_layers=read_exit_layers(raw.get("exit_layers")),
        confidence=read_confidence(raw.get("confidence")),
        look=read_look_setting(raw.get("look")),
        threshold=read_threshold(raw.get("threshold")),
        skipped_state=read_skipped_state(raw.get("skipped_state")),
        mode=mode,
        draft_length=draft_length,
        rows_in_flight=read_rows_in_flight(raw.get("rows_in_flight"), mode),
        prompt_exit=prompt_exit,
        prompt_maps=read_prompt_maps(raw.get(PROMPT_MAPS), prompt_exit),
        reference=read_switch("reference", raw.get("reference"), default=True),
        trace_dir=read_folder("trace_dir", raw.get("trace_dir")),
        heads=read_folder("heads", raw.get("heads"), "./my-heads"),
        heads_chosen="heads" in raw,
        products=read_products(raw.get("products")),
        cuda_graphs=read_switch("cuda_graphs", raw.get("cuda_graphs"), default=True),
        exit_rule=read_rule(raw.get("exit_rule")),
        exit_rule_args=read_rule_arguments(raw.get("exit_rule_args")),
        layers=layers,
    )
