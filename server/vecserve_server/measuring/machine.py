"""What the machine is that figures were taken on."""

from __future__ import annotations

from vecserve_server.encoding.measurements import processor
from vecserve_server.observability.process import resident_bytes, usable_physical_cores

__all__ = ["processor", "resident_bytes", "usable_physical_cores"]
