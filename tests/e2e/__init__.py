"""End-to-end tests against a real server process."""

from __future__ import annotations
