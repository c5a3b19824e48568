"""Running the builder: one niced child process at a time, bounded, never left behind.

Owns the child's life. Must not know what it builds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from vecserve_server.errors import Draining, StorageError

_LOG = "builder.log"
_POLL_S = 0.05
_KEPT_MESSAGE_BYTES = 2000
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Builder(Protocol):
    """Where a segment is built."""

    def run(self, folder: Path, *, timeout_s: float, given_up: Callable[[], bool]) -> None:
        """Build the segment that the folder's job describes.

        Raises StorageError if it fails or takes too long, Draining after `stop` or when `given_up`
        says so; then nothing of the build runs any more.
        """
        ...

    def stop(self) -> None:
        """Break off what runs and refuse further builds."""
        ...


class BuilderProcess:
    """Where builds run. Safe to call from several threads: they take turns."""

    def __init__(self, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._turn = threading.Lock()
        self._stopped = threading.Event()

    def run(self, folder: Path, *, timeout_s: float, given_up: Callable[[], bool]) -> None:
        """Build the segment that the folder's job describes; see `Builder.run`.

        A StorageError holds the builder's last words.
        """
        with self._own_turn(given_up):
            log = folder / _LOG
            with log.open("wb") as output:
                child = self._start(folder, output.fileno())
                try:
                    code = self._wait(child, timeout_s, given_up)
                finally:
                    if child.poll() is None:
                        child.kill()
                    child.wait()
            if code != 0:
                words = log.read_bytes()[-_KEPT_MESSAGE_BYTES:].decode(errors="replace").strip()
                raise StorageError(f"{folder.name}: the builder ended with {code}: {words}")
            log.unlink()

    def stop(self) -> None:
        """Kill what runs and refuse further builds."""
        self._stopped.set()

    @contextmanager
    def _own_turn(self, given_up: Callable[[], bool]) -> Iterator[None]:
        self._refuse_if(given_up)
        while not self._turn.acquire(timeout=_POLL_S):
            self._refuse_if(given_up)
        try:
            yield
        finally:
            self._turn.release()

    def _start(self, folder: Path, output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  our own interpreter and module
            [
                sys.executable,
                "-m",
                "vecserve_server.index.building.builder",
                folder,
                str(os.getpid()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        )

    def _wait(
        self, child: subprocess.Popen[bytes], timeout_s: float, given_up: Callable[[], bool]
    ) -> int:
        deadline_s = self._clock_s() + timeout_s
        while child.poll() is None:
            self._stopped.wait(_POLL_S)
            self._refuse_if(given_up)
            if self._clock_s() > deadline_s:
                raise StorageError(f"the builder took longer than {timeout_s:.0f} s")
        return child.returncode

    def _refuse_if(self, given_up: Callable[[], bool]) -> None:
        if self._stopped.is_set() or given_up():
            raise Draining("the index is being closed and builds no more segments")
