"""The builder process, its job and the thread that has it work."""

from __future__ import annotations
