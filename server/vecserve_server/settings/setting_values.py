"""From what a file, a variable or a flag says to the type of a setting.

Owns the conversions. Must not know which settings there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType


def converted(kind: object, raw: object) -> object:
    """Convert a value to the type of a key. Raises TypeError or ValueError."""
    if isinstance(raw, bool):
        raise TypeError("true and false are not accepted here")
    return _CONVERSIONS.get(kind, _text)(raw)


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise TypeError("must be a string")
    return raw


def _whole_number(raw: object) -> int:
    try:
        return int(str(raw))
    except ValueError:
        raise ValueError("must be a whole number") from None


def _number(raw: object) -> float:
    return float(str(raw))


def _optional_path(raw: object) -> Path | None:
    return Path(str(raw)).expanduser() if str(raw) else None


def _path(raw: object) -> Path:
    path = _optional_path(raw)
    if path is None:
        raise ValueError("must not be empty")
    return path


def _names(raw: object) -> tuple[str, ...]:
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise TypeError("must be a list of names")
    return tuple(str(part).strip() for part in parts if str(part).strip())


_CONVERSIONS: Mapping[object, Callable[[object], object]] = MappingProxyType(
    {
        int: _whole_number,
        float: _number,
        Path: _path,
        Path | None: _optional_path,
        tuple[str, ...]: _names,
    }
)
"""By the type that a setting is declared with; anything else is text."""
