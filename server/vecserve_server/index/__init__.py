"""Vectors in memory: the quantiser, exact scans and the search over them."""

from __future__ import annotations
