"""In which order prompts are answered: those with one header together, the longest first.

What the prompts of a batch begin with alike is run once (``engine.prefill``), so that a batch with
two headers shares nothing. Tasks of one run, and stories with many questions, have one header each.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamax_lm.engine.prefill import SHORTEST_PREFIX

Key = tuple[int, tuple[int, ...]]
"""Ascending: minus the length that a prompt is ordered by, and the header of its group."""


def header_keys(
    prompts: Sequence[tuple[int, ...]], lengths: Sequence[int], batch: int
) -> list[Key]:
    """A key for each prompt, equal for those with one header if they fill two batches or more.

    Args:
        prompts: token ids.
        lengths: of each prompt, what it is ordered by.
        batch: rows of a batch, at least 1.

    Returns:
        Keys by which the prompts of a large group stand together, at the place of its longest.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(prompt[:SHORTEST_PREFIX], []).append(number)
    keys: list[Key] = [(-length, ()) for length in lengths]
    for header, members in groups.items():
        if len(header) == SHORTEST_PREFIX and len(members) >= 2 * batch:
            longest = max(lengths[number] for number in members)
            for number in members:
                keys[number] = (-longest, header)
    return keys
