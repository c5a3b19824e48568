"""How results are told: one JSON object on standard output, progress on standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Report: TypeAlias = dict[str, Any]
"""A JSON object whose keys are found while measuring, such as the names of engines."""

T = TypeVar("T", bound="DataclassInstance | Report")


def as_json(result: DataclassInstance | Report) -> Report:
    """Return a result as a JSON object; fields that are None were not measured and are left out."""
    if isinstance(result, dict):
        return {key: _plain(value) for key, value in result.items()}
    values = ((field.name, getattr(result, field.name)) for field in dataclasses.fields(result))
    return as_json({name: value for name, value in values if value is not None})


def print_report(result: DataclassInstance | Report) -> None:
    """Print a result as one JSON object."""
    sys.stdout.write(json.dumps(as_json(result), indent=2) + "\n")


def tell(phase: str, found: T) -> T:
    """Tell on standard error what a phase has found, and return it."""
    say(f"{phase} {json.dumps(as_json(found))}")
    return found


def say(line: str) -> None:
    """Write a line with the time to standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return as_json(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
