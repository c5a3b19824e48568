"""Read JSON files of a checkpoint.

Owns the wording of what is wrong with one. Must not know what the files mean.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import TypeAlias

from vecserve_server.domain.rows import Json
from vecserve_server.errors import ModelError

JsonObject: TypeAlias = dict[str, Json]


def existing(path: Path) -> Path:
    """Return the path; raises `ModelError` where there is no such file."""
    if not path.is_file():
        raise ModelError(f"{path.name} is missing from {path.parent}")
    return path


def read_object(path: Path) -> JsonObject:
    """Return a file's object; raises `ModelError` where it is missing or holds anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path.name}: not a JSON object")
    return value


def read_object_if_there(path: Path) -> JsonObject:
    """Return a file's object, an empty one where there is no such file."""
    return read_object(path) if path.is_file() else {}


def read_json(path: Path) -> Json:
    """Return a file's value; raises `ModelError` where it is missing or malformed."""
    try:
        value: Json = json.loads(without_mark(existing(path).read_bytes()))
    except ValueError as error:
        raise ModelError(f"{path.name}: not valid JSON ({error})") from error
    return value


def without_mark(content: bytes) -> bytes:
    """Return a file's content without the byte order mark that some editors put before it."""
    return content.removeprefix(codecs.BOM_UTF8)
