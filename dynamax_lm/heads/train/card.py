"""The model card of trained heads, and its two pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from dynamax_lm.common.plots import new_figure, save_figure
from dynamax_lm.heads.config import HeadsConfig
from dynamax_lm.heads.train.evaluate import ExitReport, PolicyReport

LOSS_PLOT, RELIABILITY_PLOT = "loss.png", "reliability.png"

_CARD = """\
---
library_name: dynamax_lm
tags: [early-exit, dynamax]
---
# Exit heads for `{{ c.backbone }}`

{% if c.has_classifier -%}
At each exit a `{{ c.classifier }}` classifier of width {{ c.classifier_width }} says how likely \
leaving there is right.
{% endif -%}
{% if c.translator != "identity" -%}
A `{{ c.translator }}` translator{% if c.translator == "low_rank" %} of rank \
{{ c.translator_rank }}{% endif %} stands before the final norm and the unembedding.
{% endif -%}
Use them with [dynamax_lm](https://arxiv.org/abs/2504.20922):

    lm_eval --model {{ model }} --model_args pretrained={{ c.backbone }},heads=THIS_FOLDER \
--tasks dynamax_sample

| | |
|---|---|
| backbone | `{{ c.backbone }}`: {{ c.n_layers }} layers, width {{ c.width }}, vocabulary \
{{ c.vocabulary }} |
| fingerprint of its unembedding | `{{ c.fingerprint[:16] }}…` |
{% if c.training.backbone -%}
| digest of its weights, configuration and tokenizer | `{{ c.training.backbone }}` |
{% endif -%}
| exits | after {{ c.exit_layers | join(", ") }} layers |
| parameters | {{ "{:,}".format(parameters) }} |
| label | {{ label }} |
| data | `{{ c.data.name }}`, {{ "{:,}".format(c.data.tokens) }} tokens asked\
{% if c.data.digest %}, digest `{{ c.data.digest }}`{% endif %} |
| training | {{ c.training.steps }} steps of {{ c.training.batch_size }} windows, seed \
{{ c.training.seed }} |

Trained by

    {{ command }}

The backbone was frozen. The text of the data is not in this folder.

![loss](loss.png)

## Measured

On {{ "{:,}".format(tokens) }} held-out tokens, each judged from full-depth hidden states. \
{{ split }} Agreement: the exit's likeliest token is full depth's.

| exit | agreement | without translator | label holds | log loss, before → after calibration \
| calibration error, before → after | ranking (AUC) | top probability's |
|---|---|---|---|---|---|---|---|
{% for e in exits -%}
| {{ e.layer }} | {{ "%.1f" % (100 * e.agreement) }} % | {{ "%.1f" % (100 * e.untranslated) }} % \
| {{ "%.1f" % (100 * e.labelled) }} % \
| {{ "%.3f" % e.log_loss_before }} → {{ "%.3f" % e.log_loss }} \
| {{ "%.3f" % e.calibration_error_before }} → {{ "%.3f" % e.calibration_error }} \
| {{ "%.3f" % e.ranking }} | {{ "%.3f" % e.top_prob_ranking }} |
{% endfor %}
{% if c.has_classifier -%}
Leaving at the first exit whose confidence reaches a threshold (earlier tokens' states exact; \
layers, not FLOPs: see the package's own tables for net savings):

| threshold | layers used | agreement | top probability: layers used | agreement |
|---|---|---|---|---|
{% for p in policies -%}
| {{ p.threshold }} | {{ "%.2f" % p.layers_used }} | {{ "%.1f" % (100 * p.agreement) }} % \
| {{ "%.2f" % p.top_prob_layers_used }} | {{ "%.1f" % (100 * p.top_prob_agreement) }} % |
{% endfor %}
## Reliability

Confidence is `sigmoid(scale · logit + bias)` with each exit's own numbers, fitted on the \
other half of the held-out groups.

| exit | confidence | tokens | mean confidence | label holds |
|---|---|---|---|---|
{% for r in c.reliability -%}
| {{ r.layer }} | {{ "%.1f" % r.low }} to {{ "%.1f" % r.high }} | {{ r.tokens }} \
| {{ "%.1f" % (100 * r.confidence) }} % | {{ "%.1f" % (100 * r.right) }} % |
{% endfor %}
![reliability](reliability.png)
{% endif -%}
"""


_SPLIT = {
    True: "The split is by group, as the data's records name it: no record of their groups was "
    "seen in training or calibration.",
    False: "The split is by the passage that a prompt is about, or its question, or the whole "
    "text where there is no prompt: none of these tokens' was seen in training or calibration.",
}


def write_card(
    config: HeadsConfig,
    *,
    model: str,
    command: str,
    parameters: int,
    tokens: int,
    exits: Sequence[ExitReport],
    policies: Sequence[PolicyReport],
) -> str:
    """The card in Markdown.

    Args:
        config: of the finished heads.
        model: lm-eval's name of the backbone's kind.
        command: of the training.
        parameters: of the heads.
        tokens: held-out tokens behind the tables.
        exits: every exit.
        policies: every threshold.
    """
    label = "the exit's likeliest token is full depth's"
    if config.label != "top1":
        label = f"the exit's likeliest token is among full depth's {config.label_k} likeliest"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_CARD).render(
        c=config,
        model=model,
        command=command,
        parameters=parameters,
        tokens=tokens,
        exits=exits,
        policies=policies,
        label=label,
        split=_SPLIT[config.data.get("group_by") is not None],
    )


def draw_loss(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw both losses per exit over the steps of a log."""
    figure = new_figure(8, 3.2)
    titles = {"divergence": "translators: KL, nats", "cross_entropy": "classifiers: cross-entropy"}
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for layer in log[0][key] if log else ():
            points = [(row["step"], row[key][layer]) for row in log if row[key][layer]]
            axes.plot(*zip(*points, strict=True) if points else ([], []), label=f"exit {layer}")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if log:
            axes.legend(fontsize=8)
    save_figure(figure, path.with_suffix(""), dpi=100, kinds=("png",))


def draw_reliability(config: HeadsConfig, path: Path) -> None:
    """Draw the share of tokens whose label holds against the confidence, per exit."""
    figure = new_figure(4.2, 4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    for layer in config.exit_layers:
        rows = [row for row in config.reliability if row["layer"] == layer]
        x, y = [row["confidence"] for row in rows], [row["right"] for row in rows]
        axes.plot(x, y, marker="o", markersize=4, label=f"exit {layer}")
    axes.set(xlabel="mean confidence", ylabel="label holds", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path.with_suffix(""), dpi=100, kinds=("png",))
