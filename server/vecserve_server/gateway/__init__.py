"""gRPC: the server, and a folder for each protocol."""

from __future__ import annotations
