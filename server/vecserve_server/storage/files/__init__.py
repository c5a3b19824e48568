"""SQLite files: opening, the write-ahead log, bounds, and whether a file is still there."""

from __future__ import annotations
