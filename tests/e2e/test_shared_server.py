"""A server that a module broke is said to be broken, and is not lent to the next one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess
from tests.e2e.shared_server import SharedServer


class Broken(Exception):
    """A module's fixture fails."""


@pytest.fixture
def started() -> Iterator[list[ServerProcess]]:
    made: list[ServerProcess] = []
    yield made
    for process in made:
        process.kill()


@pytest.fixture
def shared(tmp_path: Path, started: list[ServerProcess]) -> SharedServer:
    def start(number: int) -> ServerProcess:
        assert number == len(started)
        log = tmp_path / f"{number}.log"
        log.write_text("ready\n")
        process = subprocess.Popen(["sleep", "600"])
        started.append(
            ServerProcess(process=process, port=1, metrics_port=1, log_path=log, environ={})
        )
        return started[-1]

    return SharedServer(start)


def say(server: ServerProcess) -> None:
    server.log_path.write_text("ready\nTraceback (most recent call last)\n")


def fail_with(shared: SharedServer) -> None:
    with shared.lent():
        raise Broken


@pytest.mark.parametrize(
    ("harm", "words"), [(ServerProcess.kill, "the server died"), (say, "Traceback")]
)
def test_whoever_breaks_it_is_told_and_the_next_one_gets_another(
    shared: SharedServer,
    started: list[ServerProcess],
    harm: Callable[[ServerProcess], None],
    words: str,
) -> None:
    with pytest.raises(AssertionError, match=words), shared.lent() as first:
        harm(first)
    with pytest.raises(Broken):
        fail_with(shared)
    assert [server.process.poll() is None for server in started] == [False, False]
    shared.stop()
