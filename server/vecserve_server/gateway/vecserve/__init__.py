"""vecserve.v1: the servicers of our own API, and what converts its messages."""

from __future__ import annotations
