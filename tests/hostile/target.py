"""The server that is attacked, and short ways to reach it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import Stubs
from tests.hostile.watching import Size, size_of

UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running server and its model repository."""

    server: ServerProcess
    repository: Path

    @property
    def pid(self) -> int:
        return self.server.process.pid

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """Open a connection of its own."""
        with grpc.insecure_channel(self.server.target, options=UNLIMITED) as channel:
            yield channel

    @contextmanager
    def stubs(self) -> Iterator[Stubs]:
        with self.channel() as channel:
            yield Stubs(channel)

    def settled(self, quiet: Size, timeout_s: float, slack: Size) -> Size:
        """Wait until the server takes about as much as when it was quiet; return what it takes."""
        until_s = time.monotonic() + timeout_s
        while not (now := size_of(self.pid)).within(0.1, quiet, slack=slack):
            if time.monotonic() > until_s:
                break
            time.sleep(0.1)
        return now


def outcomes(calls: Iterable[Any]) -> list[grpc.StatusCode]:
    """Wait for calls; tell how each ended."""
    return [call.code() for call in calls]
