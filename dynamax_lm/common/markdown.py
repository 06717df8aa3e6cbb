"""Markdown tables of texts, by pytablewriter, as lm-eval prints its tables.

Types are set explicitly, since pytablewriter would otherwise infer them and reformat numbers.
"""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A padded Markdown table, without a newline at its end."""
    from pytablewriter import MarkdownTableWriter
    from pytablewriter.typehint import String

    writer = MarkdownTableWriter(
        headers=headers, value_matrix=rows, margin=1, type_hints=[String] * len(headers)
    )
    return str(writer.dumps()).strip()
