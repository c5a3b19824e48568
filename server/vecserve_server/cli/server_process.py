"""A server of our own as a child process, on free ports.

Owns starting it, waiting for it and stopping it. Must not know what it is asked.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vecserve_server.cli.exits import CommandFailed

POLL_S: Final = 0.05
STOP_S: Final = 60.0
LOG_TAIL_LINES: Final = 3


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
                start_new_session=True,  # Ctrl-C reaches the demo only, which stops the server
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
        """Wait until the server is ready; returns its address. Raises CommandFailed."""
        deadline = time.monotonic() + timeout_s
        while not self._ready_file.exists():
            if self._process.poll() is not None:
                raise CommandFailed(
                    f"the server ended with code {self._process.returncode}: {self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise CommandFailed(f"the server is not ready after {timeout_s:g} s")
            time.sleep(POLL_S)
        ready = json.loads(self._ready_file.read_bytes())
        return f"{ready['host']}:{ready['port']}"

    def stop(self) -> None:
        """Send SIGTERM and wait; raise CommandFailed unless the server ends with code 0."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"the server did not stop within {STOP_S:g} s") from None
        if code != 0:
            raise CommandFailed(f"the server stopped with code {code}: {self._log_tail()}")

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-LOG_TAIL_LINES:]) or "its log is empty"
