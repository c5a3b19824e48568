"""The `vecserve` command."""

from __future__ import annotations
