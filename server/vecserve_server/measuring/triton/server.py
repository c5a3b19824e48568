"""NVIDIA's tritonserver as a child process on a free port.

Owns starting it, waiting until its models are ready, and ending it with its stub processes. Must
not know what it is asked.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import tritonclient.grpc as protocol
from tritonclient.utils import InferenceServerException

from vecserve_server.measuring.triton.tools import Tools

START_S: Final = 120.0
STOP_S: Final = 15.0
POLL_S: Final = 0.1
_LOG_TAIL_BYTES: Final = 2000


class TritonServer:
    """`tritonserver` over one model repository, gRPC only."""

    def __init__(self, *, tools: Tools, repository: Path, log_file: Path) -> None:
        self._tools = tools
        self._repository = repository
        self._log_file = log_file
        self._port = _free_port()

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        arguments = {
            "model-repository": self._repository,
            "backend-directory": self._tools.backends,
            "grpc-address": "127.0.0.1",
            "grpc-port": self._port,
            "allow-http": "false",
            "allow-metrics": "false",
            "exit-timeout-secs": 2,
        }
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - what `make tools-triton` fetched
                [
                    self._tools.tritonserver,
                    *(f"--{key}={value}" for key, value in arguments.items()),
                ],
                env=dict(self._tools.tritonserver_environ()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the stubs are killed with it
            )
        try:
            self._wait_ready()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def _wait_ready(self) -> None:
        deadline_s = time.monotonic() + START_S
        with protocol.InferenceServerClient(self.target) as client:
            while time.monotonic() < deadline_s:
                if self._process.poll() is not None:
                    raise RuntimeError(f"tritonserver ended: {self._log_tail()}")
                if _is_ready(client):
                    return
                time.sleep(POLL_S)
        raise RuntimeError(f"tritonserver is not ready after {START_S:g} s: {self._log_tail()}")

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _log_tail(self) -> str:
        return self._log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _is_ready(client: protocol.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready(client_timeout=1.0))
    except InferenceServerException:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
