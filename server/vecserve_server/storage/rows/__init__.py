"""The row log, its parts, and the one thread that writes."""

from __future__ import annotations
