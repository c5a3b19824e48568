"""Models that come and go: which are wanted, how a version loads, serves and retires."""

from __future__ import annotations
