"""Small JSON files that know when they are damaged: a line with the sha256 of the rest, then JSON.

Owns the format. Must not know what the JSON means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vecserve_server.atomic_files import io_errors, write_atomically
from vecserve_server.errors import CorruptData


def write_checked_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file, atomically and durably. Raises StorageError."""
    body = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
    write_atomically(path, _checksum(body) + b"\n" + body)


def read_checked_json(path: Path) -> dict[str, Any]:
    """Read and verify the file. Raises CorruptData if it is missing or damaged, StorageError."""
    content = find_checked_json(path)
    if content is None:
        raise CorruptData(f"{path}: is missing")
    return content


def find_checked_json(path: Path) -> dict[str, Any] | None:
    """Read and verify the file; None if there is none. Raises CorruptData, StorageError."""
    with io_errors(path, "cannot be read"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    checksum, _, body = data.partition(b"\n")
    if checksum != _checksum(body):
        raise CorruptData(f"{path}: the checksum does not match the content")
    content: dict[str, Any] = json.loads(body)
    return content


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
