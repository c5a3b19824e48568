"""How results look on the terminal.

Owns tables and JSON. Must not know where results come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vecserve_client import Hit
from vecserve_server.observability.printable import printable

MAX_WIDTH: Final = 32
"""Of every column of a table but the last."""


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(printable(json.dumps(value, ensure_ascii=False, allow_nan=False)))


def complain(line: str) -> None:
    """Print one line on standard error."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(printable(line))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
) -> None:
    """Print a table; the columns named in `right` hold numbers, the last one takes what is left."""
    numbers = frozenset(right)
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for position, column in enumerate(columns):
        widest = max([len(column), *(len(row[position]) for row in cells)])
        table.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=True,
            overflow="ellipsis",
            # A column that may shrink would otherwise give way to a long last one.
            min_width=None if column == columns[-1] else min(widest, MAX_WIDTH),
            max_width=None if column == columns[-1] else MAX_WIDTH,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def print_hits(hits: Iterable[Hit], *, summary_fields: Sequence[str] = ()) -> None:
    """Print hits, best first, with a line of their payload."""
    rows = [
        (rank, f"{hit.score:.3f}", hit.id, _summary(hit.payload or {}, summary_fields))
        for rank, hit in enumerate(hits, start=1)
    ]
    print_table(("#", "score", "id", "payload"), rows, right=("#", "score"))


def hit_as_dict(hit: Hit) -> dict[str, Any]:
    """Convert a hit for JSON."""
    return {"id": hit.id, "score": round(hit.score, 6), "seq": hit.seq, "payload": hit.payload}


def size_text(size_bytes: int) -> str:
    """Write a size for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _summary(payload: Mapping[str, Any], fields: Sequence[str]) -> str:
    if fields:
        return " ".join(str(payload.get(field, "")) for field in fields)
    return json.dumps(payload, ensure_ascii=False) if payload else ""
