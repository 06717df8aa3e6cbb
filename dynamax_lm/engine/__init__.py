"""One layer loop and its two doors: parallel scoring and token-by-token generation."""

from dynamax_lm.engine.decode import Chooser, GenerateRequest
from dynamax_lm.engine.generate import GeneratedAnswer, generate
from dynamax_lm.engine.memory import Memory
from dynamax_lm.engine.phases import Phases
from dynamax_lm.engine.score import ScoredAnswer, ScoreRequest, score
from dynamax_lm.engine.trained import TrainedHeads

__all__ = [
    "Chooser",
    "GenerateRequest",
    "GeneratedAnswer",
    "Memory",
    "Phases",
    "ScoreRequest",
    "ScoredAnswer",
    "TrainedHeads",
    "generate",
    "score",
]
