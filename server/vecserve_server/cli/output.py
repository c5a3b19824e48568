"""How results look on the terminal.

Owns tables and JSON. Must not know where results come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vecserve_client import Hit, Row
from vecserve_server.observability.printable import printable

MAX_WIDTH: Final = 32
"""Of every column of a table but the last."""
MIN_WIDTH: Final = 8
"""Of the last one."""
SEPARATOR_WIDTH: Final = 3


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(printable(json.dumps(value, ensure_ascii=False, allow_nan=False)))


def complain(line: str) -> None:
    """Print one line on standard error, whatever it quotes."""
    told = printable(line.encode("utf-8", "backslashreplace").decode())
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(told)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    wraps: bool = False,
) -> None:
    """Print a table; the columns named in `right` hold numbers, the last one takes what is left.

    What does not fit there is cut, or goes on in the next line where it `wraps`.
    """
    console = Console(highlight=False)
    numbers = frozenset(right)
    cells = [[printable_lines(str(cell)) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    left = console.width
    for position, column in enumerate(columns):
        is_last = position == len(columns) - 1
        lines = [line for row in cells for line in row[position].split("\n")]
        widest = max(map(cell_len, [column, *lines]))
        # Widths are given: a long last column would otherwise make the others shrink to nothing.
        width = max(left, MIN_WIDTH) if is_last else min(widest, MAX_WIDTH)
        left -= width + SEPARATOR_WIDTH
        table.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=not (wraps and is_last),
            overflow="fold" if wraps and is_last else "ellipsis",
            width=min(width, widest),
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def printable_lines(text: str) -> str:
    """Escape what does not print; line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def print_hits(hits: Sequence[Hit], *, summary_fields: Sequence[str] = ()) -> None:
    """Print hits, best first, with a line of their text and one of their payload."""
    rows = [
        (rank, f"{hit.score:.3f}", hit.id, _content(hit, summary_fields))
        for rank, hit in enumerate(hits, start=1)
    ]
    print_table(("#", "score", "id", _content_title(hits)), rows, right=("#", "score"))


def print_rows(rows: Sequence[Row]) -> None:
    """Print stored rows with a line of their text and one of their payload."""
    cells = [(row.id, row.seq, _content(row, ())) for row in rows]
    print_table(("id", "seq", _content_title(rows)), cells, right=("seq",))


def hit_as_dict(hit: Hit) -> dict[str, Any]:
    """Convert a hit for JSON."""
    return {
        "id": hit.id,
        "score": round(hit.score, 6),
        "seq": hit.seq,
        "text": hit.text,
        "payload": hit.payload,
    }


def row_as_dict(row: Row) -> dict[str, Any]:
    """Convert a stored row for JSON; `index` reads it back. Its vector is there if it came."""
    parts = {"id": row.id, "seq": row.seq, "text": row.text, "payload": row.payload or {}}
    if row.vector is None:
        return parts
    # Stored as float16, which has four digits.
    return parts | {"vector": [float(f"{component:.6g}") for component in row.vector.tolist()]}


def size_text(size_bytes: int) -> str:
    """Write a size for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _content_title(found: Sequence[Hit | Row]) -> str:
    return "text, payload" if any(one.text for one in found) else "payload"


def _content(found: Hit | Row, fields: Sequence[str]) -> str:
    text = " ".join((found.text or "").split())
    lines = (text, _summary(found.payload or {}, fields))
    return "\n".join(line for line in lines if line)


def _summary(payload: Mapping[str, Any], fields: Sequence[str]) -> str:
    if fields:
        return " ".join(str(payload.get(field, "")) for field in fields)
    return json.dumps(payload, ensure_ascii=False) if payload else ""
