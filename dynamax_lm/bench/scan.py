"""Benchmark of the Mamba-2 scan against transformers' torch path."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from dynamax_lm.bench.rows import Row
from dynamax_lm.bench.subject import Subject
from dynamax_lm.bench.timing import alternate
from dynamax_lm.decoders.state_space import StateSpace
from dynamax_lm.decoders.transformers_kernels import TRUSTED


def scan(subject: Subject) -> Iterator[Row]:
    """One layer's scan over a long sequence and over a batch of short ones."""
    space = StateSpace.of(subject.stack.decoder.layers[0].mixer)
    long = 256 if subject.quick else 1024
    for batch, tokens in [(1, long), (8, 64)]:
        x, dt, b, c = _inputs(subject, space, batch, tokens)
        found = alternate(
            {
                "ours": partial(subject.stack.kernels.scan, space, x, dt, b, c, None),
                "transformers": partial(TRUSTED.scan, space, x, dt, b, c, None),
            },
            subject.rounds,
        )
        yield Row(
            "Scan",
            subject.name,
            f"scan of one layer, {batch} x {tokens}, {space.mixer.num_heads} heads",
            "transformers' torch path / ours",
            found["transformers"] / found["ours"],
            8.0,
            seconds=found,
        )


def _inputs(subject: Subject, space: StateSpace, batch: int, tokens: int) -> list[torch.Tensor]:
    """x, dt, B and C, random."""
    mixer = space.mixer
    generator = torch.Generator().manual_seed(subject.seed)
    shapes = [(mixer.num_heads, mixer.head_dim), (mixer.num_heads,)]
    shapes += [(mixer.n_groups, mixer.ssm_state_size)] * 2
    return [torch.randn(batch, tokens, *shape, generator=generator).to(mixer.D) for shape in shapes]
