"""Where a checkpoint comes from, and what its files say."""

from __future__ import annotations
