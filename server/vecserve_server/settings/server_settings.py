"""The section `server`: what bounds what comes in through the doors.

Owns names and defaults. Must not know what the values are used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The doors."""

    host: str = "127.0.0.1"
    port: int = 8001
    """0: any free port."""
    metrics_port: int = 8002
    """Prometheus, over HTTP. 0: any free port; -1: off."""
    ready_file: Path | None = None
    """Written when the server is READY: one JSON object with its ports and pid."""
    drain_s: float = 30.0
    """How long accepted calls may take to finish after SIGTERM."""
    max_message_bytes: int = 32 * MIB
    """Largest message of a client, once decompressed."""
    max_arriving_bytes: int = 256 * MIB
    """Memory for the messages that are on their way in, all together."""
    receive_timeout_s: float = 60.0
    """How long the message of a unary call may be on its way."""
    max_unread_bytes: int = 256 * MIB
    """Replies that no client has read yet, all together; a quarter of it for one connection."""
    max_concurrent_calls: int = 4096
    """Unary calls; health and admin calls are counted apart, up to as many again."""
    max_connection_calls: int = 2048
    """Those of them that come over one connection."""
    max_streams: int = 1024
    """Open streams."""
    max_connection_streams: int = 256
    max_watches: int = 256
    """Streams of health checks."""
    max_connection_watches: int = 16
    max_connections: int = 4096
    """At most what the limit of file descriptors leaves room for."""
    handshake_timeout_s: float = 10.0
    """How long a connection may take to speak HTTP/2."""
    max_connection_idle_s: float = 900.0
    """A connection without a call is closed after so long."""
    max_connection_age_s: float = 3600.0
    """After so long a client is asked to connect anew; its open calls go on."""
    max_metrics_connections: int = 64
    """One more takes the place of the oldest."""
    metrics_timeout_s: float = 5.0
    """How long a scrape may take to ask and to read its answer."""
    client_shared_memory: Literal["auto", "on", "off"] = "auto"
    """Whether clients may register shared memory. auto: where only this machine can connect."""
    max_shared_memory_regions: int = 256
    max_shared_memory_bytes: int = 4096 * MIB
    """Sum of the sizes of the registered regions."""

    @property
    def offers_shared_memory(self) -> bool:
        """Whether clients may register regions."""
        if self.client_shared_memory == "auto":
            return is_loopback(self.host)
        return self.client_shared_memory == "on"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
