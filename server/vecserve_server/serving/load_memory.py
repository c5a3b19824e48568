"""Whether a model fits into memory, judged before it is read.

Owns the estimate. Must not know engines or what is free.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vecserve_server.errors import ModelLimit

_GRAPHS = (".onnx", ".xml")
_COPIES = 2
"""An engine holds a graph's file and its own copy of the weights at once."""
_MIB = 1 << 20


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size of every file below a folder, by its path there."""
    return {
        str((Path(parent) / name).relative_to(folder)): _size_bytes(Path(parent) / name)
        for parent, _, names in os.walk(folder)
        for name in names
    }


def check_fits(what: str, sizes: Mapping[str, int], limit_bytes: int | None) -> None:
    """Refuse a model whose files, of these sizes, take more memory than the limit.

    Of several graphs one is loaded; other files go with it. None is no limit. Raises ModelLimit
    that names the largest file and the sizes.
    """
    if limit_bytes is None or not sizes:
        return
    graphs = [size for name, size in sizes.items() if name.endswith(_GRAPHS)]
    needed = _COPIES * max(graphs, default=0) + sum(sizes.values()) - sum(graphs)
    if needed <= limit_bytes:
        return
    largest = max(sizes, key=lambda name: sizes[name])
    raise ModelLimit(
        f"{what}: needs about {_mib(needed)} of memory (its largest file, {largest!r}, has "
        f"{_mib(sizes[largest])}); {_mib(limit_bytes)} may be taken (models.max_load_bytes, or "
        "what is free)",
        bound="memory",
    )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it is being replaced


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
