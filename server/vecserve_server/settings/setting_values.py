"""From what a file, a variable or a flag says to the type of a setting.

Owns the conversions. Must not know which settings there are.
"""

from __future__ import annotations

from pathlib import Path


def converted(kind: str, raw: object) -> object:
    """Convert a value to the type of a key. Raises TypeError or ValueError."""
    if isinstance(raw, bool):
        raise TypeError("true and false are not accepted here")
    if "int" in kind:
        return _whole_number(raw)
    if "float" in kind:
        return float(str(raw))
    if "Path" in kind:
        return _path(str(raw), optional="None" in kind)
    if "tuple" in kind:
        return _names(raw)
    if not isinstance(raw, str):
        raise TypeError("must be a string")
    return raw


def _whole_number(raw: object) -> int:
    try:
        return int(str(raw))
    except ValueError:
        raise ValueError("must be a whole number") from None


def _path(raw: str, *, optional: bool) -> Path | None:
    if not raw and not optional:
        raise ValueError("must not be empty")
    return Path(raw).expanduser() if raw else None


def _names(raw: object) -> tuple[str, ...]:
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, list | tuple):
        raise TypeError("must be a list of names")
    return tuple(str(part).strip() for part in parts if str(part).strip())
