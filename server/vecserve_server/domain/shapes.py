"""The few shapes that runs may have.

Owns which they are. An engine prepares code and buffers for every new shape, which takes time and
stays in memory; so runs are padded a little, to shapes that are all known beforehand. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

MAX_SHAPES = 4096
"""More would take too long to plan with."""
_PREPARED_TOKENS = 1 << 19
"""Of all shapes that are prepared for together: some seconds of a small model."""


class Shape(NamedTuple):
    """`rows` × `width` tokens."""

    rows: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens in the run, padding included."""
        return self.rows * self.width


def row_widths(max_tokens: int) -> list[int]:
    """Return the widths of single rows, ascending; the last is `max_tokens`.

    Steps are at most an eighth of the width, but 16 up to 128.
    """
    widths, width, step = [], 0, 16
    while width < max_tokens:
        if width >= 8 * step:
            step *= 2
        width = min(width + step, max_tokens)
        widths.append(width)
    return widths


def run_shapes(*, run_tokens: int, max_tokens: int, shared: bool = True) -> list[Shape]:
    """Return every shape: single rows of all widths, and several rows of the rounder widths.

    A shape holds at most `run_tokens` tokens, unless it is a single row. Rows that are not
    `shared` by sequences are no wider than `max_tokens`, for which the model has positions.
    """
    widest = max(max_tokens, min(run_tokens, 2 * max_tokens)) if shared else max_tokens
    shapes: list[Shape] = []
    for width in row_widths(widest):
        round_width = width % 32 == 0 or width == widest
        most = max(1, run_tokens // width) if round_width else 1
        shapes.extend(Shape(rows, width) for rows in range(1, most + 1))
    return shapes


def count_shapes(*, run_tokens: int, max_tokens: int, shared: bool = True) -> int:
    """Count what `run_shapes` returns, without making it."""
    widest = max(max_tokens, min(run_tokens, 2 * max_tokens)) if shared else max_tokens
    return sum(
        max(1, run_tokens // width) if width % 32 == 0 or width == widest else 1
        for width in row_widths(widest)
    )


def prepared_shapes(shapes: Iterable[Shape], *, run_tokens: int) -> list[Shape]:
    """Return the shapes to prepare for: the longest texts are rare, and dear to prepare for.

    Of very many shapes, the smaller ones.
    """
    usual = [shape for shape in shapes if shape.tokens <= 2 * run_tokens]
    by_size = sorted(usual, key=lambda shape: shape.tokens)
    totals = accumulate(shape.tokens for shape in by_size)
    kept = {
        shape for shape, total in zip(by_size, totals, strict=True) if total <= _PREPARED_TOKENS
    }
    return [shape for shape in usual if shape in kept]


def fixed_shapes(*, run_tokens: int, max_tokens: int, shared: bool = True) -> list[Shape]:
    """Return the shapes that most runs have, the most wanted first.

    Full runs, for a queue of texts; single rows, for a text alone; and parts of full runs.
    """
    widths = (32, 64, 128)
    full = [Shape(run_tokens // width, width) for width in widths]
    single = [Shape(1, width) for width in (16, *range(32, run_tokens + 1, 32), 48)]
    parts = [Shape(shape.rows // part, shape.width) for part in (2, 4) for shape in full]
    allowed = {
        shape
        for shape in run_shapes(run_tokens=run_tokens, max_tokens=max_tokens, shared=shared)
        if shape.tokens <= run_tokens
    }
    return [shape for shape in dict.fromkeys([*full, *single, *parts]) if shape in allowed]
