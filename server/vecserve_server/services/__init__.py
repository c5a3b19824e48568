"""The use cases, one face each. Both protocols call these and nothing below."""

from __future__ import annotations
