"""Compressed messages.

Owns how they are told from others and what unpacking them may take: a thread of its own, one after
the other, so that a small message which unpacks into a huge one holds up nobody. gRPC would unpack
them all at once, before anybody is asked. Must not know methods. Loop only.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import Executor
from typing import TypeVar

from vecserve_server.errors import InvalidArgument, Overloaded
from vecserve_server.gateway.common.decoding import Deserialise
from vecserve_server.observability.metrics import Metrics

T = TypeVar("T")

GZIP = b"\x1f\x8b\x08"
ZLIB_FIRST, ZLIB_MULTIPLE = 0x78, 31
"""RFC 1950: the first byte as gRPC writes it, and what the first two are a multiple of."""
EITHER = 32 + zlib.MAX_WBITS
ON_LOOP_PACKED_BYTES, ON_LOOP_BYTES = 1 << 16, 1 << 18
"""So much is unpacked at once: it takes less than a millisecond."""
RETRY_AFTER_MS = 1000


def is_packed(message: bytes) -> bool:
    """Tell whether a message may be compressed: gzip never begins a message, zlib hardly ever."""
    if message.startswith(GZIP):
        return True
    return (
        len(message) > 1
        and message[0] == ZLIB_FIRST
        and not (message[0] << 8 | message[1]) % ZLIB_MULTIPLE
    )


class Unpacking:
    """Turns messages into requests, once they are unpacked."""

    def __init__(
        self, *, max_bytes: int, max_waiting_bytes: int, pool: Executor, metrics: Metrics
    ) -> None:
        """Allow messages of `max_bytes` once unpacked; so many packed bytes may wait."""
        self._max_bytes = max_bytes
        self._max_waiting_bytes = max_waiting_bytes
        self._pool = pool
        self._rejected = metrics.rejected.labels(reason="packed")
        self._waiting_bytes = 0
        self._unpacking, self._decoding = asyncio.Lock(), asyncio.Lock()

    async def decoded(self, message: bytes, decode: Deserialise) -> object:
        """Unpack a message where it is packed, and decode it.

        Raises InvalidArgument where it is too large, and Overloaded where too much waits.
        """
        if not is_packed(message):
            return await self._in_turn(message, decode)
        if len(message) <= ON_LOOP_PACKED_BYTES:
            small = _unpacked(message, ON_LOOP_BYTES)
            if len(small) <= ON_LOOP_BYTES:
                return decode(small)
        return await self._unpacked(message, decode)

    async def _in_turn(self, message: bytes, decode: Deserialise) -> object:
        """Decode at once or, where that takes long, one message after the other."""
        if len(message) <= ON_LOOP_BYTES:
            return decode(message)
        async with self._decoding:
            request = decode(message)
            await asyncio.sleep(0)  # others first
        return request

    async def _unpacked(self, message: bytes, decode: Deserialise) -> object:
        if self._waiting_bytes + len(message) > self._max_waiting_bytes:
            self._rejected.inc()
            raise Overloaded(
                f"{self._waiting_bytes} bytes of compressed messages wait to be unpacked and "
                f"{len(message)} more exceed limits.max_pending_bytes = {self._max_waiting_bytes}",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self._waiting_bytes += len(message)
        try:
            # Decoded in turn, too: what is unpacked is held by one call at a time.
            async with self._unpacking:
                loop = asyncio.get_running_loop()
                large = await loop.run_in_executor(self._pool, _unpacked, message, self._max_bytes)
                if len(large) > self._max_bytes:
                    raise InvalidArgument(
                        "request",
                        "is larger, once it is decompressed, than "
                        f"server.max_message_bytes = {self._max_bytes}; send fewer items in one "
                        "call",
                    )
                return await self._in_turn(large, decode)
        finally:
            self._waiting_bytes -= len(message)


def _unpacked(message: bytes, max_bytes: int) -> bytes:
    """Return the unpacked message, one byte too many if it is too large; as it is if not packed."""
    unpacking = zlib.decompressobj(EITHER)
    try:
        data = unpacking.decompress(message, max_bytes + 1)
    except zlib.error:
        return message
    return data if unpacking.eof or len(data) > max_bytes else message
