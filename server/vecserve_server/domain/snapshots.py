"""A snapshot of a collection.

Owns plain, frozen data. Must not know where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

from vecserve_server.domain.collections import CollectionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a snapshot's manifest says."""

    spec: CollectionSpec
    last_seq: int
    size_bytes: int
    sha256: str
    """Of the file of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableSnapshot:
    """A snapshot whose manifest says nothing to this vecserve."""

    reason: str
    """For a caller: what is wrong, and what to do."""
