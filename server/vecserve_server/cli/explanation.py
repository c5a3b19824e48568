"""How a search came about, for people.

Owns the wording of an explanation; programs take `--json`. Must not know how it is made. A part
that it does not know is printed as it came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vecserve_server.cli.output import print_table

Part = Mapping[str, Any]


def print_explanation(explanation: Part) -> None:
    """Print one line for each step, and where each hit stood on each side."""
    steps = [
        (name, _took(part), _told(name, part))
        for name, part in explanation.items()
        if name != "hits"
    ]
    print()
    print_table(("step", "ms", "what happened"), steps, right=("ms",), wraps=True)
    hits = explanation.get("hits", ())
    if hits:
        print()
        columns = ("#", "score", "by vectors", "by words", "id")
        rows = [
            (
                rank,
                f"{hit['score']:.4f}",
                _side(hit.get("dense")),
                _side(hit.get("lexical")),
                hit["id"],
            )
            for rank, hit in enumerate(hits, start=1)
        ]
        print_table(columns, rows, right=columns[:-1])


def _took(part: Any) -> str:
    if isinstance(part, dict) and "microseconds" in part:
        return f"{part['microseconds'] / 1000:.2f}"
    return ""


def _told(name: str, part: Any) -> str:
    if not isinstance(part, dict):
        return str(part)
    known = {key: value for key, value in part.items() if key != "microseconds"}
    tell = _TELLERS.get(name, _plainly)
    try:
        return tell(known)
    except (KeyError, TypeError):
        return _plainly(known)


def _plainly(part: Part) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {_value(value)}"
        for key, value in part.items()
        if value is not None
    )


def _filter(part: Part) -> str:
    return f"{part['matched_rows']} rows match"


def _lexical(part: Part) -> str:
    told = f"looked for {_words(part['terms'])}"
    if part["dropped_terms"]:
        told += f"; left out {_words(part['dropped_terms'])}"
    return told + ("; not all rows with these words were compared" if part["is_cut"] else "")


def _rows(part: Part) -> str:
    return f"{part['read']} rows read"


def _words(terms: Sequence[str]) -> str:
    return ", ".join(terms) if terms else "nothing"


def _side(part: Part | None) -> str:
    return f"{part['rank']}. {part['score']:.4f}" if part is not None else "-"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_TELLERS: Final[Mapping[str, Callable[[Part], str]]] = {
    "filter": _filter,
    "lexical": _lexical,
    "rows": _rows,
}
