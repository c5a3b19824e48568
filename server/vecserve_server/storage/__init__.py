"""Rows on disk."""

from __future__ import annotations
