"""A server of our own as a child process, on free ports.

Owns starting it, waiting for it and stopping it. Must not know what it is asked.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vecserve_server.errors import VecserveError

POLL_S: Final = 0.05
STOP_S: Final = 60.0
LOG_TAIL_LINES: Final = 3
START_S: Final = 120.0


class ServerFailed(VecserveError):
    """The server did not start, or did not stop as it should."""


class ServerProcess:
    """`vecserve serve` in a child process; its log goes to `<run_dir>/server.log`."""

    def __init__(self, *, run_dir: Path, data_dir: Path, model_repository: str) -> None:
        self._log_file = run_dir / "server.log"
        self._ready_file = run_dir / "ready.json"
        options = {
            "--host": "127.0.0.1",
            "--port": "0",
            "--metrics-port": "0",
            "--ready-file": str(self._ready_file),
            "--data-dir": str(data_dir),
            "--model-repository": model_repository,
        }
        self._arguments = [part for pair in options.items() for part in pair]

    def __enter__(self) -> Self:
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "vecserve_server.cli.main", "serve", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops the server
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait_ready(self, *, timeout_s: float) -> str:
        """Wait until the server is ready; returns its address. Raises ServerFailed."""
        deadline = time.monotonic() + timeout_s
        while not self._ready_file.exists():
            if self._process.poll() is not None:
                raise ServerFailed(
                    f"the server ended with code {self._process.returncode}: {self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server is not ready after {timeout_s:g} s")
            time.sleep(POLL_S)
        ready = json.loads(self._ready_file.read_bytes())
        return f"{ready['host']}:{ready['port']}"

    def stop(self) -> None:
        """Send SIGTERM and wait; raise ServerFailed unless the server ends with code 0."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server did not stop within {STOP_S:g} s") from None
        if code != 0:
            raise ServerFailed(f"the server stopped with code {code}: {self._log_tail()}")

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-LOG_TAIL_LINES:]) or "its log is empty"


@contextmanager
def serving(model_repository: str | Path, *, timeout_s: float = START_S) -> Iterator[str]:
    """Serve an empty data folder beside what the block does; yields the server's address.

    Raises ServerFailed where the server does not start in time or does not end well.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ServerProcess(
            run_dir=folder, data_dir=folder / "data", model_repository=str(model_repository)
        )
        with server:
            yield server.wait_ready(timeout_s=timeout_s)
            server.stop()
