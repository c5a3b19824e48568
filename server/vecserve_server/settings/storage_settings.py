"""The sections `storage` and `index`: where rows and vectors live, and how they are looked after.

Owns names and defaults. Must not know what the values are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where rows live."""

    data_dir: Path = Path("data")
    snapshot_dir: Path | None = None
    """Folder of the snapshots. None: `snapshots` in the data folder."""
    max_open_collections: int = 0
    """Collections whose files are open at a time. 0: what the limit of open files allows."""
    watch_s: float = 5.0
    """How often the files of every collection are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """How vectors are searched and when graphs are built for them."""

    first_rows: int = 0
    """Fewer rows in a collection are scanned without a graph. 0: as measured."""
    delta_rows: int = 0
    """So many rows that no graph knows yet are given one. 0: as measured."""
    exact_rows: int = 10_000
    """Up to so many rows that a filter lets through are all looked at."""
    target_recall: float = 0.99
    """Recall@10 against an exact search that the breadth of graph searches is chosen for."""
    build_memory_bytes: int = 0
    """Memory that a build may take. 0: half of what is free when it begins."""
    builder_niceness: int = 15
