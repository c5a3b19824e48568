"""Small JSON files that carry the sha256 of their own content in the first line.

Owns the format: a line with the checksum of the rest, then JSON. Must not know what they say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vecserve_server.errors import CorruptData, StorageError
from vecserve_server.storage.atomic_files import write_atomically


def write_checked_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file, atomically and durably. Raises StorageError."""
    body = json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"
    write_atomically(path, _checksum(body) + b"\n" + body)


def read_checked_json(path: Path) -> dict[str, Any] | None:
    """Read and verify the file; None if there is none.

    Raises CorruptData if it is damaged, StorageError if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    checksum, _, body = data.partition(b"\n")
    if checksum != _checksum(body):
        raise CorruptData(f"{path}: the checksum does not match the content")
    content: dict[str, Any] = json.loads(body)
    return content


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
