"""What the server asks of the builder process.

Owns the job's file. Must not know how a segment is built.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from vecserve_server.checked_json import read_checked_json, write_checked_json

JOB = "JOB"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFiles:
    """Rows to seal: files of equal numbers of seqs and vectors, and the places to leave out."""

    seqs: str
    vectors: str
    left_out: str
    """A file of int64 places; empty: nothing is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """Everything that the builder needs to know."""

    dim: int
    sources: tuple[RowFiles, ...]
    base: str = ""
    """A segment's folder whose graph is extended by the other sources; empty: none is. The first
    source then has its living rows, in case its codes do not suit the new rows."""
    seed: int = 0
    connectivity: int = 24
    expansion_add: int = 200
    rotated_rows: int = 10_000
    """From so many rows on there is enough to calibrate codes with."""
    target_recall: float = 0.99
    least_recall: float = 0.95
    most_strays: float = 0.05
    niceness: int = 15
    memory_bytes: int = 0
    """Data that the process may allocate; 0: no limit."""


def write_job(folder: Path, job: BuildJob) -> None:
    """Write the job into the folder where its segment will be built. Raises StorageError."""
    write_checked_json(folder / JOB, dataclasses.asdict(job))


def read_job(folder: Path) -> BuildJob:
    """Read the job of a folder. Raises CorruptData, StorageError."""
    content = read_checked_json(folder / JOB)
    sources = tuple(RowFiles(**source) for source in content["sources"])
    return BuildJob(**{**content, "sources": sources})
