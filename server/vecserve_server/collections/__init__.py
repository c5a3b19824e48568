"""Collections that are served: rows on disk and vectors in memory as one, and their generations."""

from __future__ import annotations
