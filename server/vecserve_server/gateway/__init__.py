"""gRPC: servicers, converters, interceptors and the status table."""

from __future__ import annotations
