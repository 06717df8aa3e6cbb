"""The results of ``benchmarks.cheap_look`` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamax_lm.common.markdown import markdown_table


def tables(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    parts: list[str] = []
    for name in (one for one in ("none", "affine") if one in found):
        likeness, savings = found[name]["likeness"], found[name]["savings"]
        layers = list(dict.fromkeys(row["layer"] for row in likeness))
        looks = list(dict.fromkeys(row["look"] for row in likeness))
        cheap = [look for look in looks if look != "full"]
        by = {(row["look"], row["layer"]): row for row in likeness}
        for title, key, shown in (
            ("Share of tokens whose most likely token is the exit's", "same", cheap),
            ("Mean difference of `top_prob` from the exact one", "difference", cheap),
            ("Area under the ROC curve of `top_prob`", "auc", looks),
        ):
            rows = [
                [f"`{one}`", *(_number(by[one, layer][key]) for layer in layers)] for one in shown
            ]
            head = ["look", *(f"layer {layer}" for layer in layers)]
            parts.append(f"## {title}, translators: {name}\n\n{markdown_table(head, rows)}")
        head = ["exits", "measure", "saved at 0.95", "oracle, checks billed", "oracle, free"]
        rows = [
            [
                "+".join(map(str, row["exits"])),
                f"`{row['measure']}`",
                f"{row['saved']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]",
                f"{row['oracle_paid']:+.1%}",
                f"{row['oracle_free']:+.1%}",
            ]
            for row in savings
        ]
        parts.append(f"## Net savings, translators: {name}\n\n{markdown_table(head, rows)}")
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
