"""The early-exit loss (after LayerSkip, arXiv 2404.16710)."""

import random
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from training.tiny.models import exit_layers, hidden_states, logits_at


@dataclass(frozen=True)
class ExitLoss:
    """Weights of the exits, relative to the last layer's weight of 1.

    Attributes:
        first: Weight of the exit at half depth, which is trained at every step.
        later: Weight of one of the later exits, drawn anew at every step.
        distil: In answers, the share of an exit's target that is the last layer's most likely
            token; the rest, and all elsewhere, is the text. It makes an exit's top probability an
            estimate of its agreement with full depth. It harms a model early in training: keep it
            at 0 until the last steps.
        answers: Weight of a token in an answer at the exits; any other weighs 1. Their mean is 1.
    """

    first: float = 1.0
    later: float = 0.5
    distil: float = 0.0
    answers: float = 1.0

    def __call__(
        self, model: PreTrainedModel, ids: Tensor, answers: Tensor, rng: random.Random
    ) -> tuple[Tensor, dict[int, float]]:
        """Computes the loss of one batch.

        Args:
            model: The model.
            ids: Token ids, (rows, time + 1).
            answers: Which of them are in an answer, shaped alike.
            rng: Draws the later exit.

        Returns:
            The loss to minimise, and each layer's cross-entropy on the text by layer.
        """
        layers = model.config.num_hidden_layers
        first, *others = exit_layers(layers)
        weights = {first: self.first, rng.choice(others): self.later}
        in_answer = answers[:, 1:].flatten().float()
        distil = self.distil * in_answer
        shares = 1 + (self.answers - 1) * in_answer
        shares = shares / shares.sum()
        states = hidden_states(model, ids[:, :-1], [*weights, layers])
        text = ids[:, 1:].flatten()
        logits = logits_at(model, states[layers]).float().flatten(0, 1)
        teacher = logits.detach().argmax(-1)
        loss = functional.cross_entropy(logits, text)
        entropies = {layers: loss.item()}
        for layer, weight in weights.items():
            scores = logits_at(model, states[layer]).float().flatten(0, 1).log_softmax(-1)
            on_text = functional.nll_loss(scores, text, reduction="none")
            on_teacher = functional.nll_loss(scores, teacher, reduction="none")
            loss = loss + weight * (shares * on_text.lerp(on_teacher, distil)).sum()
            entropies[layer] = on_text.mean().item()
        return loss, entropies
