"""The vecserve API."""

from __future__ import annotations
