"""A real server in a process of its own, on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0


@dataclass(kw_only=True)
class ServerProcess:
    """A running `vecserve serve`."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    log_path: Path
    environ: dict[str, str]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.environ["VECSERVE_STORAGE_DATA_DIR"])

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def exit_code(self) -> int:
        return self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> int:
        self.terminate()
        return self.exit_code()


class Launch(Protocol):
    """Start a server; its settings are keyed as in `start_server`."""

    def __call__(self, *, name: str = "server", **settings: object) -> ServerProcess: ...


def start_server(
    folder: Path,
    *,
    repository: Path,
    name: str = "server",
    descriptors: object = None,
    **settings: object,
) -> ServerProcess:
    """Start a server on `folder/data` and wait until it is ready.

    `descriptors` are its soft and hard limit of open files.
    """
    ready_file, log_path = folder / f"{name}.ready", folder / f"{name}.log"
    ready_file.unlink(missing_ok=True)
    environ = _clean_environ() | {
        "VECSERVE_SERVER_PORT": "0",
        "VECSERVE_SERVER_METRICS_PORT": "0",
        "VECSERVE_SERVER_READY_FILE": str(ready_file),
        "VECSERVE_STORAGE_DATA_DIR": str(folder / "data"),
        "VECSERVE_MODELS_REPOSITORY": str(repository),
    }
    environ |= {f"VECSERVE_{key.upper()}": str(value) for key, value in settings.items()}
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*_limited(descriptors), sys.executable, "-m", "vecserve_server.cli.main", "serve"],
            env=environ,
            stdout=log,
            stderr=log,
        )
    facts = _wait_until_ready(process, ready_file, log_path)
    return ServerProcess(
        process=process,
        port=facts["port"],
        metrics_port=facts["metrics_port"],
        log_path=log_path,
        environ=environ,
    )


def _wait_until_ready(
    process: subprocess.Popen[bytes], ready_file: Path, log_path: Path
) -> dict[str, int]:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if ready_file.exists():
            facts: dict[str, int] = json.loads(ready_file.read_text())
            return facts
        if process.poll() is not None:
            raise AssertionError(f"exit {process.returncode}:\n{log_path.read_text()}")
        time.sleep(0.02)
    process.kill()
    process.wait(STOP_TIMEOUT_S)
    raise AssertionError(f"not ready in {START_TIMEOUT_S} s:\n{log_path.read_text()}")


def _limited(descriptors: object) -> list[str]:
    if not isinstance(descriptors, tuple):
        return []
    soft, hard = descriptors
    return ["bash", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "limited"]


def _clean_environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("VECSERVE_")}
