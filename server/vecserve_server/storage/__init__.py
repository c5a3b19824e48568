"""Rows on disk: the SQLite log, the writer thread and the data folder."""

from __future__ import annotations
