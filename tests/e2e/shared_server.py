"""One server for all modules that need no server of their own.

Owns when it starts, that each module finds it without collections and leaves it healthy, and that
a server which a module broke is not lent to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.e2e.server_process import ServerProcess
from vecserve_client import Client


class SharedServer:
    """A server that modules borrow in turn."""

    def __init__(self, start: Callable[[int], ServerProcess]) -> None:
        """Start servers by `start`, which takes how many there were before."""
        self._start = start
        self._started = 0
        self._running: ServerProcess | None = None

    @contextmanager
    def lent(self) -> Iterator[ServerProcess]:
        """Lend it; at the end it must run, have said nothing of a crash, and give up its rows."""
        running = self._running or self._start(self._started)
        self._started += running is not self._running
        self._running = None  # whoever breaks it does not give it back
        said = len(running.log)
        try:
            yield running
            assert running.process.poll() is None, f"the server died:\n{running.log[said:]}"
            assert "Traceback" not in running.log[said:], running.log[said:]
            empty(running)
        except BaseException:
            running.kill()
            raise
        self._running = running

    def stop(self) -> None:
        """Stop it, with exit code 0."""
        if self._running is not None:
            assert self._running.stop() == 0, self._running.log
            assert "Traceback" not in self._running.log, self._running.log


def empty(server: ServerProcess) -> None:
    """Delete its aliases, collections and snapshots."""
    with Client(target=server.target, deadline_s=60.0) as client:
        for alias in client.admin.list_aliases():
            client.admin.delete_alias(alias.name)
        for collection in client.list_collections():
            client.drop_collection(collection.name)
        for snapshot in client.admin.list_snapshots():
            client.admin.delete_snapshot(snapshot.name)
