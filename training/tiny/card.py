"""The model card, filled in from measurements."""

from typing import Any

from training.tiny.train import WARMUP_STEPS

_SHAPES = {
    "mistral": "`MistralForCausalLM`, 16 layers of width 128 (MLP 384, 4 query and 2 key-value "
    "heads of 32), tied embeddings",
    "mamba": "`Mamba2ForCausalLM`, 24 layers of width 128 (inner width 256, 8 heads of 32, state "
    "32, one group), tied embeddings",
    "hybrid": "`BambaForCausalLM`, 16 layers of width 128, Mamba-2 (as in the tiny Mamba) and "
    "attention (as in the tiny Mistral, half of each head rotated) in turn, each with an MLP of "
    "384, tied embeddings",
}
_TITLES = {"mistral": "Mistral", "mamba": "Mamba", "hybrid": "hybrid of Mamba-2 and attention"}
_HUMP = """
The hump between 0.8 and 2.3 M tokens is a mistake left in: the exits were asked for the last
layer's most likely token while that layer knew nothing yet, which held it back.
"""
_NOTES = {
    "mistral": _HUMP,
    "mamba": _HUMP,
    "hybrid": "",
}


def card(state: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Writes the card in Markdown.

    Args:
        state: The checkpoint.
        metrics: What `evaluate` measured.
    """
    settings = state["settings"]
    name = settings["model"]
    text = metrics["held_out_text"]
    layers = list(text["bits_per_byte"])
    rows = "\n".join(
        f"| {layer} | {text['bits_per_byte'][layer]:.3f} | {text['agreement'][layer]:.1%} "
        f"| {metrics['held_out_answers']['agreement'][layer]:.1%} "
        f"| {metrics['coqa_greedy_answers']['agreement'][layer]:.1%} |"
        for layer in layers
    )
    policies = "\n".join(
        _policy(title, metrics[key])
        for title, key in (
            ("held-out text, all tokens", "held_out_text"),
            ("held-out text, answers only", "held_out_answers"),
            ("its own greedy answers to the `coqa` sample", "coqa_greedy_answers"),
        )
    )
    return f"""---
license: apache-2.0
language: en
---
# A tiny {_TITLES[name]} for demonstrations

{_SHAPES[name]}; {metrics["parameters"] / 1e6:.2f} M parameters, vocabulary 1,024 (byte-level BPE),
context 2,048. It exists so that `dynamax_lm` can be tried, tested and explained in seconds on a
laptop. **It is small, briefly trained and weak**: it knows the shape of a short answer and little
of its substance. Do not use it for anything else, and do not read its task scores as results.

## Training

From scratch on one CPU core (no GPU), {state["tokens"] / 1e6:.1f} M tokens
({state["tokens"] / 2.3e6:.1f} passes over 2.3 M), {state["step"]:,} steps, seed {settings["seed"]},
Muon for the matrices and AdamW for the rest, learning rate {settings["lr"]:g}{_annealed(state)},
{settings.get("precision", "bfloat16")} matrix products. Code and log: `training/tiny/` in the
repository.

Text: 480 CoQA stories with their conversations, BoolQ passages, and questions with answers from
TriviaQA, Natural Questions, SQuAD, WebQuestions (for the last three their dev or test sets: never
evaluate this model on those) and Jeopardy!, laid out as lm-evaluation-harness's `coqa`, `triviaqa`
and `truthfulqa` prompts lay them out. 2 % by passage or question were held out. No record of the
package's evaluation samples was trained on. None of the text is in this folder.

**Its exits are better than an ordinary model's.** It was trained with an early-exit loss (after
LayerSkip, arXiv 2404.16710): the output of half depth (weight {settings["first"]:g}) and of one
later exit a step (weight {settings["later"]:g}) is also asked for the next token, through the same
final norm and unembedding; {_distilled(settings)}A checkpoint trained for its last layer alone,
such as Mistral 7B, has no such exits: expect far less of it, and train heads for it.

![loss](loss.png)
{_NOTES[name]}
## Measured

Bits per byte on held-out text: **{text["bits_per_byte"][layers[-1]]:.3f}**; a Witten-Bell bigram
model over the same tokens, trained on the same text: {metrics["bigram_bits_per_byte"]:.3f}.

By layer, given the text before ({text["tokens"]:,} held-out tokens, of which
{metrics["held_out_answers"]["tokens"]:,} in answers; {metrics["coqa_greedy_answers"]["tokens"]:,}
tokens of the model's own answers):

| layers run | bits per byte | agreement with full depth | on answers | on its own answers |
|---|---|---|---|---|
{rows}

With confidence `top_prob` and threshold 0.9, the states of earlier tokens exact:

| tokens | leave at {", ".join(layers_[:-1]) if (layers_ := [str(n) for n in layers]) else ""} \
| layers used | agreement | FLOPs saved, net (by parameter counts) |
|---|---|---|---|---|
{policies}
"""


def _annealed(state: dict[str, Any]) -> str:
    start = state["decay_start"]
    warm = f", reached after {WARMUP_STEPS} steps of warm-up"
    return warm if start is None else f"{warm} (annealed to 0 from step {start:,})"


def _distilled(settings: dict[str, Any]) -> str:
    if not settings["distil"]:
        return ""
    return f"""while
the learning rate was annealed, {settings["distil"]:.0%} of what an exit was asked for in answers
was the last layer's most likely token, the rest the text. There an exit's top probability is nearer
to its agreement with the last layer than to the chance that the text goes on so: log-likelihoods
read at an exit are too sure of themselves. """


def _policy(title: str, metrics: dict[str, Any]) -> str:
    policy = metrics["at_threshold"]
    shares = ", ".join(f"{share:.0%}" for share in list(policy["share_leaving"].values())[:-1])
    return (
        f"| {title} | {shares} | {policy['layers_used']:.1f} | {policy['agreement']:.1%} "
        f"| {policy['flops_saved_estimate']:.1%} |"
    )
