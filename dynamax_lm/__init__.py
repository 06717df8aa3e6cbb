"""Early-exit language models inside lm-evaluation-harness.

What is exported here is the public Python interface; what is not is private. Importing the package
loads nothing heavy: a name is imported when it is first used.

>>> import dynamax_lm
>>> model = dynamax_lm.load("tiny", threshold=0.9)
>>> grid = model.probe("The capital of France is")
>>> grid.predicted.shape[1] == len(grid.layers) + 1
True
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's: this file runs whenever Python starts, and loads nothing
if TYPE_CHECKING:
    from typing import Any

    from dynamax_lm.answers import Answer, ExitGrid, Score
    from dynamax_lm.api import ExitModel, find_measure, find_skipped_state, load
    from dynamax_lm.common.errors import SettingError
    from dynamax_lm.core.confidence import Measure
    from dynamax_lm.core.costs import LayerCosts
    from dynamax_lm.core.exit_view import ExitView
    from dynamax_lm.core.ledger import HeadCosts, Ledger
    from dynamax_lm.core.measures import MeasureFacts
    from dynamax_lm.core.policy import ExitPolicy
    from dynamax_lm.core.skipped_states import SkippedFacts, SkippedState
    from dynamax_lm.core.stack import ForwardPass, TokenBatch
    from dynamax_lm.core.thresholds import ThresholdRule
    from dynamax_lm.core.trace import AnswerTrace, FlopsBreakdown, TokenRow
    from dynamax_lm.decoders.adapter import LayerAdapter, LayerKind, LayerPlan, LayerState
    from dynamax_lm.decoders.attention import MistralStack
    from dynamax_lm.decoders.costs.attention import AttentionCosts
    from dynamax_lm.decoders.costs.mamba2 import Mamba2Costs
    from dynamax_lm.decoders.decoder import Decoder
    from dynamax_lm.decoders.mamba2 import Mamba2Stack
    from dynamax_lm.engine.exit_probe import ExitObserver, probe_exits
    from dynamax_lm.engine.generate import generate
    from dynamax_lm.engine.requests import GenerateRequest
    from dynamax_lm.engine.score import ScoreRequest, score
    from dynamax_lm.harness.responses import record_of
    from dynamax_lm.heads import ExitHeads
    from dynamax_lm.report.column import Column
    from dynamax_lm.report.leaderboard import Entry

__version__ = "0.2.0"

_HOMES = {
    "Answer": "answers",
    "AnswerTrace": "core.trace",
    "AttentionCosts": "decoders.costs.attention",
    "Column": "report.column",
    "Decoder": "decoders.decoder",
    "Entry": "report.leaderboard",
    "ExitGrid": "answers",
    "ExitHeads": "heads",
    "ExitModel": "api",
    "ExitObserver": "engine.exit_probe",
    "ExitPolicy": "core.policy",
    "ExitView": "core.exit_view",
    "FlopsBreakdown": "core.trace",
    "ForwardPass": "core.stack",
    "GenerateRequest": "engine.requests",
    "HeadCosts": "core.ledger",
    "LayerAdapter": "decoders.adapter",
    "LayerCosts": "core.costs",
    "LayerKind": "decoders.adapter",
    "LayerPlan": "decoders.adapter",
    "LayerState": "decoders.adapter",
    "Ledger": "core.ledger",
    "Mamba2Costs": "decoders.costs.mamba2",
    "Mamba2Stack": "decoders.mamba2",
    "Measure": "core.confidence",
    "MeasureFacts": "core.measures",
    "MistralStack": "decoders.attention",
    "Score": "answers",
    "ScoreRequest": "engine.score",
    "SettingError": "common.errors",
    "SkippedFacts": "core.skipped_states",
    "SkippedState": "core.skipped_states",
    "ThresholdRule": "core.thresholds",
    "TokenBatch": "core.stack",
    "TokenRow": "core.trace",
    "find_measure": "api",
    "find_skipped_state": "api",
    "generate": "engine.generate",
    "load": "api",
    "probe_exits": "engine.exit_probe",
    "record_of": "harness.responses",
    "score": "engine.score",
}

__all__ = [
    "Answer",
    "AnswerTrace",
    "AttentionCosts",
    "Column",
    "Decoder",
    "Entry",
    "ExitGrid",
    "ExitHeads",
    "ExitModel",
    "ExitObserver",
    "ExitPolicy",
    "ExitView",
    "FlopsBreakdown",
    "ForwardPass",
    "GenerateRequest",
    "HeadCosts",
    "LayerAdapter",
    "LayerCosts",
    "LayerKind",
    "LayerPlan",
    "LayerState",
    "Ledger",
    "Mamba2Costs",
    "Mamba2Stack",
    "Measure",
    "MeasureFacts",
    "MistralStack",
    "Score",
    "ScoreRequest",
    "SettingError",
    "SkippedFacts",
    "SkippedState",
    "ThresholdRule",
    "TokenBatch",
    "TokenRow",
    "__version__",
    "find_measure",
    "find_skipped_state",
    "generate",
    "load",
    "probe_exits",
    "record_of",
    "score",
]


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exported names."""
    return sorted(__all__)
