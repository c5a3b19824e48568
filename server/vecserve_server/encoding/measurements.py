"""What was measured on this machine, kept on disk.

Owns the folder and the keys. Must not know what the values mean. Losing it costs a new measurement.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vecserve_server.domain.rows import Json


class Measurements:
    """JSON objects by key; a folder that cannot be written, or None, keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: Mapping[str, Json]) -> dict[str, Json] | None:
        """Return what was kept under the key; None too where the file is damaged."""
        if self._folder is None:
            return None
        try:
            entry = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(entry, dict) or entry.get("key") != dict(key):
            return None
        value = entry.get("value")
        return value if isinstance(value, dict) else None

    def put(self, key: Mapping[str, Json], value: Mapping[str, Json]) -> bool:
        """Keep the value in place of an earlier one; return whether that could be done."""
        if self._folder is None:
            return False
        body = json.dumps({"key": dict(key), "value": dict(value)}, indent=2, sort_keys=True)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(self._path(key), body + "\n")
        except OSError:
            return False
        return True

    def _path(self, key: Mapping[str, Json]) -> Path:
        assert self._folder is not None
        text = json.dumps(dict(key), sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def processor() -> str:
    """Describe the processor, as far as timings depend on it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        model = next(line.partition(":")[2] for line in lines if line.startswith("model name"))
        return f"{platform.machine()} {model.strip()}"
    return platform.machine()


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
