"""Rows on disk: the SQLite log, the writer thread and atomic file operations."""

from __future__ import annotations
